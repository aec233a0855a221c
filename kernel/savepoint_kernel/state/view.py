"""The namespace as the timeline sees it: the user's names, and the values of outputs.

Not IPython's own: the history of inputs goes on whatever is undone, and what it puts into every
namespace (``get_ipython``, ``exit``, ...) is its own. ``Out`` is a dict that would link everything
ever displayed, so each of its values counts as a name, ``Out[5]``; so do the three last results as
the display hook keeps them, by which it knows whether the user has taken ``_`` for something else.
Attributes of modules (`modules`) are names too, ``module.attribute``.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .modules import ModuleAttributes

_NOT_THE_USERS = frozenset(
    """
    In Out _dh _i _ih _ii _iii _oh exit get_ipython quit
    __builtin__ __builtins__ __doc__ __loader__ __name__ __package__ __spec__ __warningregistry__
    """.split()
)
_RESULT = re.compile(r"_\d+|_{1,3}|_exit_code")
_OUTPUTS = ("Out[", "displayhook.")
_OUTPUT = re.compile(r"Out\[(\d+)\]")
_LAST_RESULTS = {f"displayhook.{name}": name for name in ("_", "__", "___")}
LAST_RESULTS = frozenset(_LAST_RESULTS) | frozenset(_LAST_RESULTS.values())
"""Names that IPython binds anew with each result."""


class NamespaceView:
    """Reads and writes what the timeline tracks.

    Args:
        shell: the interactive shell.

    Attributes:
        modules: what is tracked of modules; None for nothing.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.modules: ModuleAttributes | None = None
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
        last = vars(self._shell.displayhook)
        for name, attribute in _LAST_RESULTS.items():
            value = last.get(attribute, "")
            if type(value) is not str or value:  # it begins as an empty string
                names[name] = value
        for number, value in self._outputs.copy().items():  # the new one comes last
            names[f"Out[{number}]"] = value
        if self.modules is not None:
            names |= self.modules.read()
        return names

    def note_code(self, code: types.CodeType) -> None:
        """Take note of what code that is about to run may assign to. Any thread."""
        if self.modules is not None:
            self.modules.note_code(code)

    @property
    def attributes(self) -> frozenset[str]:
        """The attributes of modules read last: the code of their modules is not analysed."""
        return frozenset() if self.modules is None else self.modules.names

    def require(self, names: Iterable[str]) -> None:
        """Import the modules whose attributes are among the names, where that is possible."""
        if self.modules is not None:
            self.modules.require(names)

    def edited_since(self, name: str, moment: float) -> bool:
        """Tell whether a name is data of a module whose file is newer than that.

        Args:
            name: an attribute of a module.
            moment: seconds since the epoch.
        """
        return self.modules is not None and self.modules.edited_since(name, moment)

    def write_attributes(
        self, values: Mapping[str, Any], removed: Collection[str]
    ) -> dict[str, str]:
        """Do for attributes of modules what `write` does for all other names.

        Returns:
            Why attributes could not be bound, by name.
        """
        return {} if self.modules is None else self.modules.write(values, removed)

    def write(self, values: Mapping[str, Any], removed: Iterable[str], order: list[str]) -> None:
        """Bind and unbind names, attributes of modules apart.

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
            elif not is_attribute(name):
                namespace[name] = value
        _reorder(
            namespace, [name for name in order if is_variable(name) and not is_attribute(name)]
        )


def _is_hidden(name: Any) -> bool:
    return (
        not isinstance(name, str)  # globals()[1] = 2 is possible, if useless
        or (name[:2] == "_i" and name[2:].isdigit())  # one for each cell so far
        or name.startswith(_OUTPUTS)
        or "." in name
    )


def is_variable(name: str) -> bool:
    """Tell whether ``name`` is one of the namespace, as opposed to an output."""
    return not name.startswith(_OUTPUTS)


def is_attribute(name: str) -> bool:
    """Tell whether ``name`` is one of an attribute of a module."""
    return "." in name and is_variable(name)


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
