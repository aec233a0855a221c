"""Random programs: those that fail leave no trace, and every commit can be gone back to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .harness import Kernel, start_kernel

ROOT = Path(__file__).parents[2]


@contextmanager
def running(*arguments: str) -> Iterator[Kernel]:
    """Start a kernel that has ``programs``, which is no variable of its namespace."""
    with start_kernel(*arguments, env={"PYTHONPATH": str(ROOT)}) as kernel:
        kernel.ok(
            "import builtins\n"
            "from tests.kernel.programs import Programs\n"
            "builtins.programs = Programs(get_ipython().kernel)\n"
            "del Programs, builtins"
        )
        yield kernel


@pytest.fixture(scope="module")
def programs(hermetic_user_directories: None) -> Iterator[Kernel]:
    with running("--Savepoints.durability=memory") as kernel:
        yield kernel


@pytest.mark.parametrize("number", range(15))
def test_program_that_fails_leaves_no_trace(programs, number):
    assert int(programs.ok(f"programs.roll_back(100, {number})").value) >= 100


@pytest.mark.parametrize("number", range(5))
def test_every_commit_can_be_gone_to(programs, number):
    assert int(programs.ok(f"programs.travel(100, {number})").value) >= 100


def test_every_commit_can_be_gone_to_in_another_process(tmp_path, hermetic_user_directories):
    session = "--Savepoints.session=programs"
    file = repr(str(tmp_path / "expected.json"))
    with running(session) as kernel:
        written = int(kernel.ok(f"programs.write(150, 1, {file})").value)
        kernel.client.shutdown()
        kernel.manager.provisioner.process.wait(30)
    with running(session) as kernel:
        assert int(kernel.ok(f"programs.read({file})").value) == written >= 300
