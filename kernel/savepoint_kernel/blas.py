"""Threads of BLAS and OpenMP libraries across a fork.

numpy's BLAS starts its threads when it is imported; a zygote must have none. So libraries are
loaded with one thread each, as their environment variables ask, and get what they would have had
in the process that uses them.

Threads: the main thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}
"""Where a library looks for its number of threads, first one first, by threadpoolctl's names."""

NAMES = frozenset(name for names in VARIABLES.values() for name in names)
"""All of these variables."""


@contextmanager
def single_threaded() -> Iterator[None]:
    """Have libraries that are loaded in the block start no threads."""
    before = {name: os.environ.get(name) for name in NAMES}
    os.environ.update(dict.fromkeys(NAMES, "1"))
    try:
        yield
        _libraries()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@cache
def _libraries() -> list[Any]:
    """Return those that are loaded; none are loaded after the fork unless a kernel does it."""
    libraries: list[Any] = ThreadpoolController().lib_controllers
    return libraries


def restore() -> None:
    """Give the loaded libraries the threads that the environment and the CPUs say."""
    cpus = len(os.sched_getaffinity(0))
    for library in _libraries():
        names = VARIABLES.get(library.internal_api, ())
        wanted = next((os.environ[name] for name in names if name in os.environ), "")
        count = wanted.partition(",")[0]  # OMP_NUM_THREADS may list nested levels
        library.set_num_threads(int(count) if count.isdecimal() and int(count) > 0 else cpus)
