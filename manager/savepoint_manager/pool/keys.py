"""Which standbys fit which orders: what a kernel can't be told after it was made.

Threads: none of its own.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from savepoint_kernel.orders import Order, split_arguments

_PREFIXES = tuple(
    """
    PYTHON LD_ DYLD_ LC_ MALLOC_ GLIBC_ IPYTHON OMP_ GOMP_ KMP_ OPENBLAS_ MKL_ BLIS_ NUMEXPR_ NUMBA_
    CUDA_
    """.split()
)
_NAMES = frozenset(
    """
    GOTO_NUM_THREADS HOME IPY_TEST_SIMPLE_PROMPT LANG LANGUAGE MPLBACKEND MPLCONFIGDIR USER
    VECLIB_MAXIMUM_THREADS XDG_CACHE_HOME XDG_CONFIG_HOME
    """.split()
)
"""Variables read by the interpreter, the C library, IPython or numeric libraries when they start.
All others take effect when a program reads them, and a standby has the order's by then."""


@dataclass(frozen=True, slots=True)
class Key:
    """What standbys of one kind have in common.

    Attributes:
        executable: the Python.
        options: of that Python.
        arguments: of the kernel, as far as it reads them when it is made.
        variables: of the environment, likewise.
        cwd: directory it starts in, if PYTHONPATH is relative to it.
    """

    executable: str
    options: tuple[str, ...]
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    cwd: str = "/"

    @property
    def name(self) -> str:
        """A short name: the same in every daemon, but for kernels to adopt (`Adoption.key`)."""
        return hashlib.sha256(repr(self).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def key_of(order: Order) -> Key:
    """Find out which standbys can carry an order out."""
    early, _ = split_arguments(order.arguments)
    variables = sorted(
        (name, value)
        for name, value in order.env.items()
        if name in _NAMES or name.startswith(_PREFIXES)
    )
    search_path = order.env.get("PYTHONPATH", "")
    relative = search_path and not all(map(os.path.isabs, search_path.split(os.pathsep)))
    return Key(
        order.executable,
        tuple(order.options),
        tuple(early),
        tuple(variables),
        order.cwd if relative else "/",
    )
