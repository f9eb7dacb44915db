"""The laboratory: what proves the product. It stands in a checkout and is not installed.

Nothing outside imports it, but for commands that name a module of it and are told where it is absent.
"""
