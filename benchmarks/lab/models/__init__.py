"""What methods, scores and settings are worth, on labelled sets."""
