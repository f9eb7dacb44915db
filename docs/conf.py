"""The documentation as a site: ``make docs``. Sphinx reads the Markdown as it stands here; nothing comes from a network."""

project = "DSKD Edge"
author = "DSKD Edge contributors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3  # links to headings, as code hosts make them
suppress_warnings = ["misc.highlighting_failure"]  # a fence whose language a test reads
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
