"""Where answers go on the line: each kind of output is one file. Imports nothing: a valve's guard starts through it."""
