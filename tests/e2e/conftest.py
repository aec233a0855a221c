"""One JupyterLab and one browser for all of these tests, a notebook and a page for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser

from .harness import KERNEL
from .lab import Lab, chromium, jupyter_lab
from .notebook_page import NotebookPage

OpenNotebook = Callable[..., NotebookPage]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as server:
        yield server


# Not for the whole session: while playwright is up, its event loop runs in the main thread, where
# the tests of another module may want one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as instance:
        yield instance


@pytest.fixture
def open_path(lab: Lab, browser: Browser) -> Iterator[OpenNotebook]:
    """Opens a notebook file, copied into the server's folder, on the kernel under test."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})

    def open_it(path: Path) -> NotebookPage:
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata["kernelspec"] = {"name": KERNEL, "display_name": KERNEL}
        nbformat.write(notebook, lab.root / path.name)
        return NotebookPage(context.new_page(), lab.address(path.name))

    yield open_it
    context.close()


@pytest.fixture
def open_notebook(open_path: OpenNotebook, tmp_path: Path) -> OpenNotebook:
    """Opens a new notebook with the given cells."""

    def open_it(*sources: str) -> NotebookPage:
        path = tmp_path / f"{tmp_path.name}.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
        return open_path(path)

    return open_it
