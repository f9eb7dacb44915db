"""Where answers go on the line: each kind of output is one file."""
