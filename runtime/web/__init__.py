"""The page of a station: what it sees, what it decided, how it is, and the few things that people may change."""
