"""How Sphinx builds these pages (`make docs`). Neither building nor reading them fetches anything."""

from typing import Any

import typer
from typer.cli import get_docs_for_click

import fithubert
from fithubert.cli import app as command_line

project = "fithubert"
version = release = fithubert.__version__
copyright = "the fithubert authors, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"fithubert {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["seen.css"]
html_show_sphinx = False

# Docstrings are plain text in which backticks mark code.
default_role = "code"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"


def hide_signature(app: Any, what: str, name: str, value: Any, options: Any, signature: str, returns: str) -> Any:
    """No signature for configuration models, whose fields are listed below it, nor for protocols."""
    if what == "class" and (hasattr(value, "model_fields") or getattr(value, "_is_protocol", False)):
        return "", None
    return signature, returns


def describe_commands(app: Any, page: str, source: list[str]) -> None:
    """The page of commands: the output of `--help`, made by Typer's own writer of Markdown."""
    if page == "api/commands":
        command = typer.main.get_command(command_line)
        source[0] += get_docs_for_click(obj=command, ctx=typer.Context(command), name="fithubert", title="Commands")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("source-read", describe_commands)
