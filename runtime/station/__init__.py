"""A station beside the line: cameras and triggers in, answers out, for months. Knows nothing of its page."""
