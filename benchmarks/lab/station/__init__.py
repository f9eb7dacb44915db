"""A station under faults, under load for hours, and on paper."""
