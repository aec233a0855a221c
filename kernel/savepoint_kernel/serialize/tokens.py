"""How an object is named in a pickle: by where it is imported from, or by a token.

A class that a cell defines has no name that means it and no other: a cell that runs twice makes two
classes of one qualified name, and instances of the first are none of the second. So each gets a
random token when it is pickled first; type variables do too. The token is in the pickle, and
whoever loads it in a process that has the object gets that object. It stays the same from then on,
here and wherever the pickle is loaded.

Threads: written while something is pickled or loaded, by the thread that does it.
"""

from __future__ import annotations

import sys
import uuid
import weakref
from typing import Any

# By id: metaclasses may define __eq__ and __hash__.
_tokens: dict[int, tuple[weakref.ref[Any], str]] = {}
_objects: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def token_of(obj: Any) -> str:
    """Return the token of an object; it gets one if it has none."""
    return known_token(obj) or remember(uuid.uuid4().hex, obj)


def known_token(obj: Any) -> str | None:
    """Return the token of an object that was pickled or loaded before."""
    known = _tokens.get(id(obj))
    return known[1] if known is not None and known[0]() is obj else None


def object_of(token: str) -> Any:
    """Return the object with this token; None if this process does not have it."""
    return _objects.get(token)


def remember(token: str, obj: Any) -> str:
    """Give an object the token it had where it was pickled."""
    key = id(obj)
    _tokens[key] = (weakref.ref(obj, lambda _: _tokens.pop(key, None)), token)
    _objects[token] = obj
    return token


def is_importable(obj: Any) -> bool:
    """Tell whether a function or class is found under its name in a module."""
    name, module = getattr(obj, "__qualname__", None), getattr(obj, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        return False
    found: Any = sys.modules.get(module) if module not in ("__main__", "__mp_main__") else None
    if found is None:
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj
