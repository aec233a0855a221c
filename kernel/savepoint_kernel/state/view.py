"""The namespace as the timeline sees it: the user's names, and the values of outputs.

Not IPython's own: the history of inputs goes on whatever is undone, and what it puts into every
namespace (``get_ipython``, ``exit``, ...) is its own. ``Out`` is a dict that would link everything
ever displayed, so each of its values counts as a name, ``Out[5]``; so do the three last results as
the display hook keeps them, by which it knows whether the user has taken ``_`` for something else.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_NOT_THE_USERS = frozenset(
    """
    In Out _dh _i _ih _ii _iii _oh exit get_ipython quit
    __builtin__ __builtins__ __doc__ __loader__ __name__ __package__ __spec__ __warningregistry__
    """.split()
)
_RESULT = re.compile(r"_\d+|_{1,3}")
_OUTPUTS = ("Out[", "displayhook.")
_OUTPUT = re.compile(r"Out\[(\d+)\]")
_LAST_RESULTS = {f"displayhook.{name}": name for name in ("_", "__", "___")}
LAST_RESULTS = frozenset(_LAST_RESULTS) | frozenset(_LAST_RESULTS.values())
"""Names that IPython binds anew with each result."""


class NamespaceView:
    """Reads and writes what the timeline tracks.

    Args:
        shell: the interactive shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._not_the_users: dict[str, Any] = {}
        self._shown: set[str] = set()  # names that were judged before
        self._hidden: set[Any] = set()

    @property
    def namespace(self) -> dict[str, Any]:
        """The live namespace itself."""
        namespace: dict[str, Any] = self._shell.user_ns
        return namespace

    @property
    def _outputs(self) -> dict[int, Any]:
        outputs = self.namespace.get("_oh")
        return outputs if isinstance(outputs, dict) else {}

    def read(self) -> dict[str, Any]:
        """Return the tracked names with their values, in the order of the namespace."""
        names = self.namespace.copy()
        for name in _NOT_THE_USERS.intersection(names):
            self._not_the_users[name] = names.pop(name)
        # Names are judged once: this runs after every cell, and most stay.
        for name in names.keys() - self._shown - self._hidden:
            (self._hidden if _is_hidden(name) else self._shown).add(name)
        for name in self._hidden.intersection(names):
            del names[name]
        hidden = self._shell.user_ns_hidden
        if "open" in names and hidden.get("open") is names["open"]:
            del names["open"]
        for number, value in self._outputs.copy().items():
            names[f"Out[{number}]"] = value
        last = vars(self._shell.displayhook)
        for name, attribute in _LAST_RESULTS.items():
            value = last.get(attribute, "")
            if type(value) is not str or value:  # it begins as an empty string
                names[name] = value
        return names

    def write(self, values: Mapping[str, Any], removed: Iterable[str], order: list[str]) -> None:
        """Bind and unbind names.

        Args:
            values: to bind.
            removed: to unbind, where bound.
            order: all tracked names as they are to follow each other.
        """
        namespace, hook = self.namespace, self._shell.displayhook
        for name, value in self._not_the_users.items():
            namespace.setdefault(name, value)  # after globals().clear()
        outputs = self._outputs
        for name in removed:
            if name in _LAST_RESULTS:
                setattr(hook, _LAST_RESULTS[name], "")
            elif (number := _number(name)) is not None:
                outputs.pop(number, None)
            else:
                namespace.pop(name, None)
        for name, value in values.items():
            if name in _LAST_RESULTS:
                setattr(hook, _LAST_RESULTS[name], value)
            elif (number := _number(name)) is not None:
                outputs[number] = value
            else:
                namespace[name] = value
        _reorder(namespace, [name for name in order if is_variable(name)])


def _is_hidden(name: Any) -> bool:
    return (
        not isinstance(name, str)  # globals()[1] = 2 is possible, if useless
        or (name[:2] == "_i" and name[2:].isdigit())  # one for each cell so far
        or name.startswith(_OUTPUTS)
    )


def is_variable(name: str) -> bool:
    """Tell whether ``name`` is one of the namespace, as opposed to an output."""
    return not name.startswith(_OUTPUTS)


def is_output(name: str) -> bool:
    """Tell whether ``name`` stands for a result as IPython keeps it: ``Out[5]``, ``_5``, ``__``."""
    return not is_variable(name) or _RESULT.fullmatch(name) is not None


def _number(name: str) -> int | None:
    found = _OUTPUT.fullmatch(name) if name.startswith(_OUTPUTS) else None
    return None if found is None else int(found[1])


def _reorder(namespace: dict[str, Any], order: list[str]) -> None:
    wanted = set(order)
    if [name for name in namespace if name in wanted] == order:
        return
    for name in order:
        if name in namespace:
            namespace[name] = namespace.pop(name)
