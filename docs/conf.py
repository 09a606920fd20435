"""Settings of the documentation site: ``make docs`` builds it with warnings as errors."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("_ext")))

project = "Sartor"
author = "the Sartor authors"
release = version = version_of("sartor")

extensions = ["myst_parser", "sphinx.ext.autodoc", "live"]
exclude_patterns = ["_ext"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"Sartor {release}"
