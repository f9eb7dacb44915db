"""Settings from files and URIs: strict YAML, checked types, edits that leave the rest of a file alone. Knows nothing of what they set."""
