"""What using an object of pandas leaves in it, and a pickle leaves out.

pandas keeps results (``cache_readonly``: the dtype of an array, whether an index is unique) in the
``_cache`` of the instance, and pickles it where the class has no say in it: showing a frame would
count as a change. They are computed again by whoever asks.
"""

from __future__ import annotations

import sys
from typing import Any

from .reducers import PROTOCOL, Reducer

_CACHE = "_cache"


def may_cache(kind: type) -> bool:
    """Tell whether instances of a class have a dict, and pandas may put things there."""
    if kind.__dictoffset__ and "pandas" in sys.modules:
        for base in kind.__mro__:
            module = str(base.__module__)
            if module == "pandas" or module.startswith("pandas."):
                return True
    return False


def without_caches(reduce: Reducer | None) -> Reducer:
    """Return a reducer that leaves caches out.

    Args:
        reduce: takes the object apart; None if Python does.
    """

    def reducer(obj: Any) -> Any:
        own = getattr(obj, "__dict__", {})
        if _CACHE not in own:
            return NotImplemented if reduce is None else reduce(obj)
        # Away meanwhile: without any attribute, the state is of another form.
        cache = own.pop(_CACHE)
        try:
            reduced = obj.__reduce_ex__(PROTOCOL) if reduce is None else reduce(obj)
        finally:
            own[_CACHE] = cache
        if not isinstance(reduced, tuple) or len(reduced) < 3:
            return reduced
        make, args, state, *rest = reduced
        # Cython puts the attributes behind its own; object, before those in slots.
        state = tuple(map(_stripped, state)) if type(state) is tuple else _stripped(state)
        return make, args, state, *rest

    return reducer


def _stripped(state: Any) -> Any:
    if type(state) is not dict or _CACHE not in state:
        return state
    return {name: value for name, value in state.items() if name != _CACHE}
