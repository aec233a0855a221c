"""Kernels for the tests: one shared by a worker, or one of your own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Gate, Kernel, start_kernel

collect_ignore = [] if importlib.util.find_spec("torch") else ["test_tensors.py"]


@pytest.fixture(scope="session")
def _shared_kernel(hermetic_user_directories: None) -> Iterator[Kernel]:
    with start_kernel() as kernel:
        yield kernel


@pytest.fixture
def kernel(_shared_kernel: Kernel) -> Kernel:
    """A kernel with an empty namespace; the process is shared with other tests."""
    _shared_kernel.ok("%reset -f", store_history=False)
    return _shared_kernel


@pytest.fixture
def own_kernel() -> Iterator[Kernel]:
    """A kernel process nobody else uses: for tests that change or end it."""
    with start_kernel() as kernel:
        yield kernel


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A point at which code in the kernel waits for the test."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()
