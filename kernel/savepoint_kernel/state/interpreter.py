"""State of the standard library: directory, environment, warnings, logging, generators, settings.

Left out: loggers made since the capture, filters and formatters of loggers; `sys.argv`, which names
files of its process.
"""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import random
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import ModuleType
from typing import Any

from .process import Participant


@dataclass(frozen=True, slots=True, eq=False)
class _Contents:
    """What an object held, and the object, so that a rebound one comes back as itself.

    Attributes:
        value: a copy of the contents.
        owner: the live object; None in a token from another process, which stands for any.
    """

    value: Any
    owner: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Contents):
            return NotImplemented
        same_owner = self.owner is other.owner or self.owner is None or other.owner is None
        return same_owner and bool(self.value == other.value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Contents, (self.value, None)

    def owner_or(self, current: Any) -> Any:
        """Return the object to refill: the one captured, else the one in use now."""
        return current if self.owner is None else self.owner


class _CurrentDirectory:
    """The current directory, by path."""

    name = "current directory"

    def capture(self) -> str:
        try:
            return os.getcwd()
        except FileNotFoundError:
            raise FileNotFoundError("the current directory has been removed") from None

    def restore(self, token: str) -> None:
        os.chdir(token)


@dataclass(frozen=True, slots=True, eq=False)
class _Variables:
    """The environment, the object that gives access to it, and how it was at the start."""

    values: dict[str, str]
    owner: Any
    start: dict[str, str]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Variables):
            return NotImplemented
        return self.owner is other.owner and self.values == other.values

    def __reduce__(self) -> tuple[Any, ...]:
        changed = dict(self.values.items() - self.start.items())
        return _VariableEdits, (changed, tuple(self.start.keys() - self.values.keys()))


@dataclass(frozen=True, slots=True)
class _VariableEdits:
    """What the session has changed in the environment."""

    changed: dict[str, str]
    removed: tuple[str, ...]

    def applied_to(self, start: dict[str, str]) -> dict[str, str]:
        kept = {key: value for key, value in start.items() if key not in self.removed}
        return kept | self.changed


class _Environment:
    """`os.environ`, and through it what C code and child processes see.

    The time zone follows: after a restore that changes ``TZ`` it is the one that ``TZ`` names.
    """

    name = "os.environ"

    def __init__(self) -> None:
        self._start = os.environ.copy()

    def capture(self) -> _Variables:
        return _Variables(dict(os.environ), os.environ, self._start)

    def restore(self, token: _Variables | _VariableEdits) -> None:
        if isinstance(token, _Variables):
            os.environ, values = token.owner, token.values
        else:
            values = token.applied_to(self._start)
        now = dict(os.environ)
        for key in now.keys() - values.keys():
            del os.environ[key]
        os.environ.update({key: value for key, value in values.items() if now.get(key) != value})
        if now.get("TZ") != values.get("TZ") and sys.platform != "win32":
            time.tzset()


@dataclass(frozen=True, slots=True, eq=False)
class _Entries:
    """What a list held, the list itself, and what it held at the start."""

    values: tuple[Any, ...]
    owner: list[Any]
    start: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Entries):
            return NotImplemented
        return self.owner is other.owner and self.values == other.values

    def __reduce__(self) -> tuple[Any, ...]:
        added: list[tuple[int | None, Any]] = []
        removed: list[Any] = []
        matcher = SequenceMatcher(None, self.start, self.values, autojunk=False)
        for tag, i, j, k, m in matcher.get_opcodes():
            if tag != "equal":
                removed += self.start[i:j]
                before = i if i < len(self.start) else None
                added += [(before, entry) for entry in self.values[k:m]]
        return _EntryEdits, (tuple(added), tuple(removed))


@dataclass(frozen=True, slots=True)
class _EntryEdits:
    """What the session has changed in a list.

    Attributes:
        added: entries, each with the index in the list of the start before which it belongs, or
            None for its end.
        removed: entries of the list of the start.
    """

    added: tuple[tuple[int | None, Any], ...]
    removed: tuple[Any, ...]

    def applied_to(self, start: tuple[Any, ...]) -> tuple[Any, ...]:
        end = len(start)
        removed = list(self.removed)
        entries = []
        for index in range(end + 1):
            entries += [e for at, e in self.added if (end if at is None else min(at, end)) == index]
            if index < end and start[index] in removed:
                removed.remove(start[index])
            else:
                entries += start[index : index + 1]
        return tuple(entries)


class _ModuleList:
    """A list that a module keeps, such as `sys.path`: the same list, with its earlier entries."""

    def __init__(self, module: ModuleType, attribute: str) -> None:
        self.name = f"{module.__name__}.{attribute}"
        self._module = module
        self._attribute = attribute
        self._start = tuple(getattr(module, attribute))

    def capture(self) -> _Entries:
        entries = getattr(self._module, self._attribute)
        return _Entries(tuple(entries), entries, self._start)

    def restore(self, token: _Entries | _EntryEdits) -> None:
        if isinstance(token, _Entries):
            entries, values = token.owner, token.values
        else:
            entries = getattr(self._module, self._attribute)
            values = token.applied_to(self._start)
        entries[:] = values
        setattr(self._module, self._attribute, entries)


class _WarningFilters(_ModuleList):
    """`warnings.filters`."""

    def __init__(self) -> None:
        super().__init__(warnings, "filters")

    def restore(self, token: _Entries | _EntryEdits) -> None:
        super().restore(token)
        # Modules remember which warnings they have shown until the filters get a new version,
        # which has no public setter in any Python; entering this gives one.
        with warnings.catch_warnings():
            pass


@dataclass(frozen=True, slots=True)
class _Loggers:
    """What `logging` is set to.

    Attributes:
        disabled: the level of `logging.disable`.
        loggers: level, propagation, whether disabled, and handlers, by the logger's name.
        pickled: the handlers are not here, but the names of their types.
    """

    disabled: int
    loggers: Mapping[str, tuple[int, bool, bool, tuple[Any, ...]]]
    pickled: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        if self.pickled:
            return _Loggers, (self.disabled, self.loggers, True)
        # Handlers hold locks and streams.
        kinds = {name: (*rest, _kinds(held)) for name, (*rest, held) in self.loggers.items()}
        return _Loggers, (self.disabled, kinds, True)


def _loggers() -> list[logging.Logger]:
    # The manager's dict of loggers has no public counterpart before Python 3.12.
    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(each for each in known if isinstance(each, logging.Logger))]


def _kinds(handlers: Iterable[logging.Handler]) -> tuple[str, ...]:
    kinds = (type(handler).__name__ for handler in handlers)
    return tuple(kind for kind in kinds if kind != "NullHandler")


class _Logging:
    """Levels and handlers of loggers, and `logging.disable`. Handlers of this process only."""

    name = "logging"

    def capture(self) -> _Loggers:
        loggers = {
            logger.name: (logger.level, logger.propagate, logger.disabled, tuple(logger.handlers))
            for logger in _loggers()
        }
        return _Loggers(logging.root.manager.disable, loggers)

    def restore(self, token: _Loggers) -> None:
        logging.disable(token.disabled)
        missing = []
        for name, (level, propagate, disabled, handlers) in token.loggers.items():
            logger = logging.getLogger(name)
            if logger.level != level:
                logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
            if not token.pickled:
                logger.handlers[:] = handlers
            elif handlers != _kinds(logger.handlers):
                missing.append(name)
        for logger in _loggers():
            if logger.name not in token.loggers:  # which can't be unmade
                logger.setLevel(logging.NOTSET)
                logger.propagate, logger.disabled = True, False
                logger.handlers.clear()
        if missing:
            raise LookupError(f"handlers are not saved; add them again to: {', '.join(missing)}")


class _Setting:
    """A value that one function reads and another sets."""

    def __init__(self, name: str, get: Callable[[], Any], set_: Callable[[Any], object]) -> None:
        self.name = name
        self._get = get
        self._set = set_

    def capture(self) -> Any:
        return self._get()

    def restore(self, token: Any) -> None:
        self._set(token)


def _collector() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _set_collector(settings: tuple[bool, tuple[int, int, int]]) -> None:
    enabled, thresholds = settings
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()


def _settings() -> list[Participant]:
    settings: list[Participant] = [
        _Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        _Setting("garbage collector", _collector, _set_collector),
        # None, the default, would mean that there is no such setting.
        _Setting(
            "socket timeout",
            lambda: (socket.getdefaulttimeout(),),
            lambda token: socket.setdefaulttimeout(*token),
        ),
    ]
    if sys.version_info >= (3, 11):
        get, set_ = sys.get_int_max_str_digits, sys.set_int_max_str_digits
        settings.append(_Setting("digits of an int", get, set_))
    return settings


class _RandomModule:
    """The generator behind the functions of `random`."""

    name = "random"

    def capture(self) -> tuple[Any, ...]:
        return random.getstate()

    def restore(self, token: tuple[Any, ...]) -> None:
        random.setstate(token)


class _DecimalContext:
    """The decimal context of this thread: which one it is, its settings, traps and flags."""

    name = "decimal context"

    def capture(self) -> _Contents:
        context = decimal.getcontext()
        names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
        settings = {name: getattr(context, name) for name in names}
        signals = {"flags": dict(context.flags), "traps": dict(context.traps)}
        return _Contents(settings | signals, context)

    def restore(self, token: _Contents) -> None:
        context = token.owner_or(decimal.getcontext())
        for name, value in token.value.items():
            setattr(context, name, value)
        decimal.setcontext(context)


class _Locale:
    """The locale of the process, in all categories."""

    name = "locale"

    def capture(self) -> str:
        return locale.setlocale(locale.LC_ALL)

    def restore(self, token: str) -> None:
        try:
            locale.setlocale(locale.LC_ALL, token)
        except locale.Error as error:
            raise locale.Error(f"{error}: {token}") from None


def interpreter_participants() -> list[Participant]:
    """Return those of the standard library, in the order of the calls.

    What their tokens carry to another process is what differs from the state at this call.
    """
    return [
        _CurrentDirectory(),
        _Environment(),
        _ModuleList(sys, "path"),
        *_settings(),
        _WarningFilters(),
        _Logging(),
        _Locale(),
        _DecimalContext(),
        _RandomModule(),
    ]
