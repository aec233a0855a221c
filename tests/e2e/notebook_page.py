"""A notebook as a user of JupyterLab sees it."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from .harness import PATIENCE

expect.set_options(timeout=PATIENCE * 1000)


class NotebookPage:
    """The one notebook open in a browser page; cells are counted from 0."""

    def __init__(self, page: Page, address: str) -> None:
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(address)
        self.page = page
        self.wait_status("Idle")

    def wait_status(self, status: str) -> None:
        """Wait until the status bar shows a kernel that is "Idle" or "Busy".

        Not the circle in the toolbar: that one is idle before there is a kernel, too.
        """
        text = re.compile(rf"^(?!No Kernel).+ \| {status}$")
        self.page.locator("#jp-main-statusbar").get_by_text(text).wait_for()

    def cell(self, index: int) -> Locator:
        """Return a code cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def editor(self, index: int) -> Locator:
        """Return the source of a cell."""
        return self.cell(index).locator(".cm-content")

    def output(self, index: int) -> Locator:
        """Return everything a cell put out."""
        return self.cell(index).locator(".jp-OutputArea-output")

    def number(self, index: int) -> Locator:
        """Return what stands before a cell: [ ]:, [*]: or [1]:."""
        return self.cell(index).locator(".jp-InputPrompt")

    def run(self, index: int) -> None:
        """Run a cell as with the keyboard; does not wait for it."""
        self.editor(index).click()
        self.page.keyboard.press("Shift+Enter")

    def interrupt(self) -> None:
        """Press the stop button of the toolbar."""
        self.page.locator('jp-button[data-command="notebook:interrupt-kernel"]').click()
