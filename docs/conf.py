"""The documentation as a site: ``make docs``. Sphinx reads the Markdown as it stands here; nothing comes from a network."""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import dskd

# dskd.train and dskd.export are packages that can be called; the page of names shows the functions that they call.
FUNCTIONS = {
    "train": import_module("dskd.train.__main__").train,
    "export": import_module("dskd.export.onnx").export_run,
}
vars(dskd).update(FUNCTIONS)

project = "DSKD Edge"
author = "DSKD Edge contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3  # links to headings, as code hosts make them
suppress_warnings = ["misc.highlighting_failure"]  # a fence whose language a test reads
autodoc_member_order = "bysource"
nitpick_ignore_regex = [("py:.*", ".*")]  # types are named, not linked: other projects' pages are on a network
html_theme = "alabaster"
html_theme_options = {
    "description": "Visual inspection that learns from good parts",
    "fixed_sidebar": True,
    "page_width": "70rem",
    "sidebar_width": "16rem",
}
html_title = "DSKD Edge"
html_show_sphinx = False
html_copy_source = False
