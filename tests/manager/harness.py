"""Notebooks made of source texts, and what they put out."""

from __future__ import annotations

import os

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

KERNEL = os.environ.get("SAVEPOINT_TEST_KERNEL", "savepoint")


def notebook(*sources: str) -> NotebookNode:
    """Return a notebook of code cells; a source that starts with "# #" is Markdown, without it."""
    cells = [
        new_markdown_cell(source.removeprefix("# "))
        if source.startswith("# #")
        else new_code_cell(source)
        for source in sources
    ]
    return new_notebook(cells=cells)


def texts(nb: NotebookNode) -> list[str]:
    """Return what each cell wrote to stdout."""
    return [stdout(cell) for cell in nb.cells]


def stdout(cell: NotebookNode) -> str:
    return "".join(o.text for o in cell.get("outputs", []) if o.get("name") == "stdout")


def errors(cell: NotebookNode) -> list[str]:
    """Return the names of the errors a cell ended with."""
    return [o.ename for o in cell.outputs if o.output_type == "error"]


def read(path: os.PathLike[str] | str) -> NotebookNode:
    return nbformat.read(path, as_version=4)
