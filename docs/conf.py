"""Sphinx: the user's guide in Markdown, and the API reference from the docstrings."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

import rwkv_cy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import layers

project = "rwkv_cy"
author = "The rwkv_cy authors"
project_copyright = "The rwkv_cy authors"
version = release = rwkv_cy.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Headings are targets of links: [exit codes](guide.md#exit-codes).
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autosummary_generate = True
autosummary_context = {"public": rwkv_cy.__all__}  # these have pages of their own, so modules leave them out
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections give the types
numpydoc_show_class_members = False  # autodoc lists them already
numpydoc_attributes_as_param_list = True

# A copied block holds the commands alone, without prompts and output.
copybutton_prompt_text = "$ "
copybutton_copy_empty_lines = False

html_theme = "furo"
html_title = f"rwkv_cy {release}"
html_static_path = ["_static"]
html_css_files = ["rwkv_cy.css"]

#: Pages of the checkout, shown in the documentation: those of this folder link to them, and they to those.
_INCLUDED = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md", "security": "SECURITY.md"}


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """Fill in what is generated: the list of modules, and the pages that stand at the root of the checkout."""
    if docname == "layers":
        content[0] = content[0].replace("<!-- every module -->", layers.markdown())
    elif docname in _INCLUDED:
        page = (layers.ROOT / _INCLUDED[docname]).read_text("utf-8")
        content[0] = page.replace("](docs/", "](").replace("](CHANGELOG.md", "](changelog.md")
    else:
        for name, page in _INCLUDED.items():
            content[0] = content[0].replace(f"../{page}", f"{name}.md")


def setup(app: Sphinx) -> None:
    """Register the hook above."""
    app.connect("source-read", read_source)
