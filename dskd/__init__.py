"""DSKD Edge: visual inspection that learns from good parts only.

In a checkout the entries beside this file are links to the folders at the top; installed, they are its packages.
"""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("dskd-edge")
except metadata.PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"
