"""Sphinx: the user's guide in Markdown, and the API reference from the docstrings."""

import rwkv_cy

project = "rwkv_cy"
author = "The rwkv_cy authors"
project_copyright = "The rwkv_cy authors"
version = release = rwkv_cy.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Headings are targets of links: [exit codes](guide.md#exit-codes).
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections give the types
numpydoc_show_class_members = False  # autodoc lists them already
numpydoc_attributes_as_param_list = True

html_theme = "alabaster"
html_theme_options = {"description": "RWKV language models on the CPU", "page_width": "1100px"}
