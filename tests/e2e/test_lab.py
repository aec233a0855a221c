from __future__ import annotations

import pytest
from playwright.sync_api import expect

from .conftest import OpenNotebook
from .harness import DEMO, KERNEL

pytestmark = pytest.mark.e2e

only_savepoint = pytest.mark.skipif(
    KERNEL != "savepoint", reason="stock ipykernel answers only after the cell"
)

# The name is put together by the kernel, so no text in the browser can complete to it.
SLEEP = (
    "globals()['parti' + 'cular_name'] = globals()['parti' + 'cular_number'] = 1\n"
    "import time\nprint('sle' + 'eping')\ntime.sleep(100)"
)


def test_cell_runs_and_shows_its_result(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("print('to stdout')\n6 * 7", "1 / 0")
    notebook.run(0)
    expect(notebook.output(0)).to_have_text(["to stdout", "42"])
    expect(notebook.number(0)).to_have_text("[1]:")
    notebook.run(1)
    expect(notebook.output(1)).to_contain_text("ZeroDivisionError")
    expect(notebook.number(1)).to_have_text("[2]:")


@only_savepoint
def test_kernel_is_offered_by_its_name(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("1")
    name = notebook.page.locator(".jp-KernelName .jp-ToolbarButtonComponent-label")
    expect(name).to_have_text("Python 3 (Savepoint)")


@only_savepoint
def test_tab_completes_while_another_cell_runs(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(SLEEP, "", "'still ' + 'here'")
    notebook.run(0)
    expect(notebook.output(0)).to_have_text("sleeping")

    notebook.editor(1).click()
    notebook.page.keyboard.type("particular_n")
    notebook.page.keyboard.press("Tab")
    popup = notebook.page.locator(".jp-Completer")
    expect(popup).to_contain_text("particular_name")
    expect(popup).to_contain_text("particular_number")
    expect(notebook.number(0)).to_have_text("[*]:")
    notebook.page.keyboard.press("Enter")
    expect(notebook.editor(1)).to_have_text("particular_name")

    notebook.interrupt()
    expect(notebook.output(0).last).to_contain_text("KeyboardInterrupt")
    expect(notebook.number(0)).to_have_text("[1]:")
    notebook.run(1)
    expect(notebook.output(1)).to_have_text("1")
    notebook.run(2)
    expect(notebook.output(2)).to_have_text("'still here'")
    notebook.wait_status("Idle")


@only_savepoint
def test_status_stays_busy_while_a_cell_runs_beside_a_completion(
    open_notebook: OpenNotebook,
) -> None:
    notebook = open_notebook(SLEEP, "")
    notebook.run(0)
    expect(notebook.output(0)).to_have_text("sleeping")
    notebook.editor(1).click()
    notebook.page.keyboard.type("particular_n")
    notebook.page.keyboard.press("Tab")
    expect(notebook.page.locator(".jp-Completer")).to_contain_text("particular_name")
    notebook.page.keyboard.press("Escape")
    notebook.wait_status("Busy")
    notebook.interrupt()
    notebook.wait_status("Idle")


@only_savepoint
def test_cell_that_waits_for_a_button_ends_with_the_click(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(
        "import time\nimport ipywidgets\nclicked = []\n"
        "button = ipywidgets.Button(description='Go on')\n"
        "button.on_click(clicked.append)\nbutton",
        "print('wait' + 'ing')\nwhile not clicked:\n    time.sleep(.01)\nprint('done')",
        "len(clicked)",
    )
    notebook.run(0)
    button = notebook.page.get_by_role("button", name="Go on")
    expect(button).to_be_visible()
    notebook.run(1)
    expect(notebook.output(1)).to_have_text("waiting")
    expect(notebook.number(1)).to_have_text("[*]:")
    button.click()
    expect(notebook.output(1)).to_have_text("waiting\ndone")
    expect(notebook.number(1)).to_have_text("[2]:")
    notebook.run(2)
    expect(notebook.output(2)).to_have_text("1")


@only_savepoint
def test_widget_notebook_of_the_docs(open_path: OpenNotebook) -> None:
    notebook = open_path(DEMO / "widgets.ipynb")
    page = notebook.page
    notebook.run(0)
    notebook.run(1)
    expect(notebook.number(1)).to_have_text("[*]:")
    page.get_by_role("button", name="Go on").click()
    expect(notebook.output(1)).to_have_text("Thank you.")

    notebook.run(2)
    expect(notebook.output(2).last).to_contain_text("1 2")
    slider = notebook.cell(2).get_by_role("slider")
    slider.focus()
    page.keyboard.press("End")
    expect(notebook.output(2).last).to_contain_text("20")
    page.get_by_role("button", name="Stop").click()
    expect(notebook.number(2)).to_have_text("[3]:")


def test_input_is_answered_in_the_notebook(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("print('Hello', input('Name? '))", "'still ' + 'here'")
    notebook.run(0)
    box = notebook.cell(0).locator("input.jp-Stdin-input")
    box.fill("Ann")
    box.press("Enter")
    expect(notebook.output(0).last).to_contain_text("Hello Ann")
    expect(notebook.number(0)).to_have_text("[1]:")
    notebook.run(1)
    expect(notebook.output(1)).to_have_text("'still here'")


def test_password_is_masked(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("from getpass import getpass\ngetpass('Key? ')[::-1]")
    notebook.run(0)
    box = notebook.cell(0).locator("input.jp-Stdin-input")
    expect(box).to_have_attribute("type", "password")
    box.fill("secret")
    box.press("Enter")
    expect(notebook.output(0).last).to_have_text("'terces'")


def test_interrupt_ends_a_question(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("input('Name? ')", "'still ' + 'here'")
    notebook.run(0)
    notebook.cell(0).locator("input.jp-Stdin-input").wait_for()
    notebook.interrupt()
    # JupyterLab leaves the box where it was, below the traceback.
    expect(notebook.cell(0)).to_contain_text("KeyboardInterrupt")
    expect(notebook.number(0)).to_have_text("[1]:")
    notebook.run(1)
    expect(notebook.output(1)).to_have_text("'still here'")


def test_shown_again_after_a_reload(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("x = 41\nx")
    notebook.run(0)
    expect(notebook.output(0)).to_have_text("41")
    notebook.page.reload()
    notebook.wait_status("Idle")
    notebook.editor(0).click()
    notebook.page.keyboard.press("Control+a")
    notebook.page.keyboard.type("x + 1")
    notebook.run(0)
    expect(notebook.output(0)).to_have_text("42")
