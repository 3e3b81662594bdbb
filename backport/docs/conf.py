"""How Sphinx builds the documentation: python -m tox run -e html."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "src"))

import multiprocessing_initret  # noqa: E402

project = "multiprocessing-initret"
release = version = multiprocessing_initret.__version__
extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

# Ray is too large to be installed only for the documentation of one class.
autodoc_mock_imports = ["ray"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings describe the types in words

# Let a long signature have one parameter per line, so that it fits a narrow page.
maximum_signature_line_length = 60
python_maximum_signature_line_length = 60

html_theme = "alabaster"
html_theme_options = {
    "description": "Pass what the initializer returned to every task",
    "font_size": "16px",
    "page_width": "1180px",
    "sidebar_width": "240px",
}
html_static_path = ["_static"]
html_show_copyright = False
html_show_sourcelink = False


def link_pages(app, path, parent, content):
    """Turn a link of CONTRIBUTING.rst, which is written for GitHub, into one between pages."""
    content[0] = content[0].replace("<backport/docs/how-it-works.rst>", "<how-it-works.html>")


def setup(app):
    app.connect("include-read", link_pages)
