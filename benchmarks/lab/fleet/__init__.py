"""Updates under power cuts, and many devices on one machine."""
