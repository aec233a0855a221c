"""Directories of packages for one session: explicit ones before those of the environment.

The order explicit > ``PYTHONPATH`` > site-packages > user site is Python's own once the explicit
ones stand first in ``PYTHONPATH``, so that is where they go: child processes of the kernel have it
too, and a pool of warm kernels never takes them for the same as kernels without. What a kernel puts
before it is overtaken once it runs (`remote.prepare`).

Threads: any.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..exceptions import LibPathNotFound
from .config import PathName


def existing_directories(paths: Iterable[PathName]) -> tuple[Path, ...]:
    """Return them as absolute paths, in order, each once.

    Raises:
        LibPathNotFound: one does not exist, or is no directory.
    """
    directories: dict[Path, None] = {}
    for path in paths:
        directory = Path(path).expanduser().absolute()
        if not directory.is_dir():
            raise LibPathNotFound(str(directory), exists=directory.exists())
        directories[directory] = None
    return tuple(directories)
