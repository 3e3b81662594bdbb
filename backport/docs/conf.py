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

# Ray is too large to be installed for its name alone.
autodoc_mock_imports = ["ray"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types in words

html_theme = "alabaster"
html_theme_options = {
    "description": "What a pool's initializer returned reaches every function",
    "font_size": "16px",
    "page_width": "1180px",
    "sidebar_width": "240px",
}
html_static_path = ["_static"]
html_show_copyright = False
html_show_sourcelink = False
