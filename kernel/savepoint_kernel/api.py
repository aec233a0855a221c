"""What a notebook may import: ``from savepoint_kernel import api as savepoint``."""

from __future__ import annotations

from typing import Any

from .exceptions import ExecutionTimeout, SourceNotAvailable
from .serialize.sources import REGISTRY, CellRecord, Source

__all__ = ["CellRecord", "ExecutionTimeout", "Source", "SourceNotAvailable", "source"]


def source(obj: Any) -> Source:
    """Return the source of a function, method or class, and the cell that made it.

    Args:
        obj: a function (async, decorated, nested, lambda as far as Python allows), method or class.

    Returns:
        Text, cell (digest, execution count, cell id) and first line.

    Raises:
        SourceNotAvailable: ``obj`` was made by exec(), by C code, or is no such thing.
    """
    return REGISTRY.source(obj)
