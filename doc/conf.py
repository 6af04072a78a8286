"""Sphinx configuration."""

import re
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

project = "skbayes"
author = "the skbayes developers"
copyright = "2026, the skbayes developers"
release = installed_version("skbayes")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]

source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "_templates", "_gallery"]
templates_path = ["_templates"]
default_role = "py:obj"
# A docstring may list a paper that its text does not cite by number.
suppress_warnings = ["ref.citation", "ref.footnote"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# API reference

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False


def skip_member(app, what, name, obj, skip, options):
    """Leave out what scikit-learn adds to every estimator and documents itself."""
    if re.fullmatch(r"set_\w+_request|get_metadata_routing|set_output", name):
        return True
    return None


def drop_labels(app, what, name, obj, options, lines):
    """Write labels of scikit-learn's pages as plain text, in docstrings that come from it."""
    if (getattr(obj, "__module__", None) or "").startswith("sklearn."):
        lines[:] = [re.sub(r":ref:`([^`<]+?)(?:\s*<[^`>]+>)?`", r"\1", line) for line in lines]


# Examples

# sphinx-gallery takes any folder with a README for a part of the gallery, and examples/benchmarks
# has one that is not: so the gallery is built from a copy of its own files.
here = Path(__file__).parent
gallery = here / "_gallery"
shutil.rmtree(gallery, ignore_errors=True)
gallery.mkdir()
for source in [*here.glob("../examples/plot_*.py"), here / "../examples/GALLERY_HEADER.rst"]:
    shutil.copy2(source, gallery)

sphinx_gallery_conf = {
    "examples_dirs": ["_gallery"],
    "gallery_dirs": ["auto_examples"],
    "filename_pattern": r"[/\\]plot_[^/\\]*\.py$",
    "backreferences_dir": "api/generated/backreferences",
    "doc_module": ("skbayes",),
    "reference_url": {"skbayes": None},
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "show_memory": False,
    "download_all_examples": False,
    "plot_gallery": "True",
    "abort_on_example_error": False,
}

# HTML

html_theme = "pydata_sphinx_theme"
html_title = "skbayes"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "install": []}


def setup(app):
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", drop_labels)
