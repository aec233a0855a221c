from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import KERNEL
from .terminal import Terminal, terminal

pytestmark = pytest.mark.e2e


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Terminal]:
    jupyter = Path(sys.executable).parent / "jupyter"
    with terminal([str(jupyter), "console", "--kernel", KERNEL], cwd=tmp_path) as window:
        window.wait(r"^In \[1\]:")
        yield window


def test_expression_input_interrupt_and_exit(console: Terminal) -> None:
    console.type("6 * 7 * 1001")
    console.wait(r"^Out\[1\]: 42042$")

    console.wait(r"^In \[2\]:")
    console.type("print('Hello', input('Name? '))")
    console.wait(r"^Name\? ")
    console.type("Ann")
    console.wait(r"^Hello Ann$")

    console.wait(r"^In \[3\]:")
    console.type("import time; print('sleep' + 'ing'); time.sleep(100)")
    console.wait(r"^sleeping$")
    console.press("C-c")
    console.wait(r"^KeyboardInterrupt")

    console.wait(r"^In \[4\]:")
    console.type("'still ' + 'here'")
    console.wait(r"^Out\[4\]: 'still here'$")

    console.wait(r"^In \[5\]:")
    console.type("exit")
    console.wait_closed()


def test_interrupt_ends_a_question(console: Terminal) -> None:
    console.type("input('Name? ')")
    console.wait(r"^Name\? ")
    console.press("C-c")
    console.wait(r"^In \[2\]:")
    console.type("'still ' + 'here'")
    console.wait(r"^Out\[2\]: 'still here'$")


def test_password_is_not_shown(console: Terminal) -> None:
    console.type("import getpass; key = getpass.getpass('Key' + '> ')")
    console.wait(r"^Key> ")
    console.type("secret")
    console.wait(r"^In \[2\]:")
    assert "secret" not in console.screen()
    console.type("key[::-1]")
    console.wait(r"^Out\[2\]: 'terces'$")
