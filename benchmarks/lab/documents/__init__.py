"""Pages of docs/ that are made from the code and from measured results."""
