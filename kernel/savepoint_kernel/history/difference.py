"""Two values of a name, in words: what ``%diff`` shows of them.

Threads: the main thread. ``repr`` and comparisons of users' classes run here.
"""

from __future__ import annotations

from typing import Any

from ..serialize.pickler import dumps

_WIDTH = 60
_BEFORE = 20
"""Characters shown of what comes before the first difference of two long texts."""


def describe(value: Any) -> str:
    """Return a short description of a value: its repr, or shape and type."""
    kind = type(value)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        dtype = getattr(value, "dtype", "")
        return f"{kind.__name__} {'×'.join(map(str, shape))} {dtype}".strip()
    text = _text(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def difference(first: Any, second: Any, namespace: dict[str, Any]) -> tuple[str, str] | None:
    """Describe two values by what is not the same in them.

    Args:
        first: a value.
        second: another one.
        namespace: the live namespace.

    Returns:
        What to say of each; None if they are the same.
    """
    if _are_same(first, second, namespace):
        return None
    one, other = describe(first), describe(second)
    if one != other:
        return one, other
    if getattr(first, "shape", ()):
        return one, f"{other}, {_elements(first, second)}"
    texts = _text(first), _text(second)
    if texts[0] == texts[1]:
        return one, f"{other}, with other contents"
    pairs = zip(*texts)  # noqa: B905 - one may be longer
    at = next((at for at, (a, b) in enumerate(pairs) if a != b), min(map(len, texts)))
    return _from(texts[0], at), _from(texts[1], at)


def _are_same(first: Any, second: Any, namespace: dict[str, Any]) -> bool:
    if type(first) is type(second) and type(first) in {set, frozenset}:
        return bool(first == second)  # they are pickled in any order
    try:
        saved = [dumps(value, namespace, in_band=True)[0] for value in (first, second)]
    except Exception:  # of users' code; there is a difference, as the commits say
        return False
    return saved[0] == saved[1]


def _elements(first: Any, second: Any) -> str:
    """Say how many elements of two arrays or frames of one shape differ."""
    try:
        one, other = (
            value.to_numpy() if hasattr(value, "to_numpy") else value for value in (first, second)
        )
        missing = (one != one) & (other != other)  # NaN
        count = int(((one != other) & ~missing).sum())
    except Exception:  # a type of its own
        count = 0
    return f"{count} of {one.size} elements differ" if count else "with other contents"


def _text(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}; its repr raises {type(error).__name__}>"


def _from(text: str, at: int) -> str:
    start = max(at - _BEFORE, 0)
    end = start + _WIDTH - 2
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
