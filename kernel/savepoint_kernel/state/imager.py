"""Co-variables, and taking their images: what can be saved is, the rest is named with a reason.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..exceptions import SavingTimeout
from .fingerprint import Digests, Image, Put, image
from .liverefs import (
    Again,
    DroppedReference,
    LiveReferences,
    reason_of,
    type_of,
    what_was_dropped,
)
from .view import is_output

Guard = Callable[[float], AbstractContextManager[None]]


class Limits(Protocol):
    """What saving one co-variable may take; read each time.

    Attributes:
        saving_timeout: seconds; 0 for any.
        value_limit: bytes; 0 for any number,
        quota: up to which number of bytes they may have together with all else; 0 likewise.
    """

    saving_timeout: float
    value_limit: int
    quota: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A value that is not saved.

    Attributes:
        type: its type, with the module.
        reason: what pickling it raised.
        key: of the object in `liverefs.LiveReferences`.
        tired: True if saving it took too long: it is not tried again at every chance.
        again: how it is made again; None if nobody has said so.
    """

    type: str
    reason: str
    key: str
    tired: bool = field(default=False, compare=False)
    again: Again | None = None

    def __str__(self) -> str:
        if self.again is not None:
            return f"{self.type}: a restore makes it again by its recreate()"
        return f"{self.type}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Group:
    """A co-variable.

    Attributes:
        image: of the values that are saved; None if there are none.
        names: of these; their order is no part of it.
        dropped: the others.
        core: image of the variables alone, for a co-variable that has outputs too.
    """

    image: Image | None
    names: frozenset[str]
    dropped: Mapping[str, Dropped] = field(default_factory=dict)
    core: Image | None = field(default=None, compare=False)

    @property
    def all_names(self) -> frozenset[str]:
        """The names, saved or not."""
        return self.names | self.dropped.keys() if self.dropped else self.names

    @property
    def variables(self) -> frozenset[str]:
        """The saved names that are no outputs."""
        return frozenset(name for name in self.names if not is_output(name))


class Imager:
    """Takes images.

    Args:
        namespace: the live one, in which functions have their globals.
        references: knows the values that can't be pickled.
        guard: lets an interrupt raise while users' code runs, which may never end, and
            SavingTimeout after the seconds it is called with.
        limits: of one co-variable.
        digests: see `fingerprint.image`.

    Attributes:
        saving: the names being pickled.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        references: LiveReferences,
        guard: Guard,
        limits: Limits,
        digests: Digests,
    ) -> None:
        self._namespace = namespace
        self._references = references
        self._guard = guard
        self._limits = limits
        self._digests = digests
        self.saving: frozenset[str] = frozenset()

    def take(
        self,
        values: Mapping[str, Any],
        old: Image | None,
        put: Put,
        plain: Set[str],
        pickled: bytes | None = None,
    ) -> Group:
        """Take the image of a co-variable.

        Args:
            values: its names and values.
            old: what it may be equal to, if that is stored.
            put: stores a piece that was not known.
            plain: the names whose values are; see `fingerprint.image`, as for
            pickled: all of it.
        """
        names = frozenset(values)
        taken = self._try(values, put, plain, old, pickled)
        if isinstance(taken, Image):
            return Group(taken, names, core=self._core(values, plain))
        dropped = {name: self._dropped(value, taken) for name, value in values.items()}
        if len(values) > 1:
            for name, value in values.items():
                alone = self._try({name: value}, measure, plain)
                if isinstance(alone, Image):
                    del dropped[name]
                else:
                    dropped[name] = self._dropped(value, alone)
        saved = {name: value for name, value in values.items() if name not in dropped}
        if saved and len(saved) < len(values):
            taken = self._try(saved, put, plain)
            if isinstance(taken, Image):
                return Group(taken, frozenset(saved), dropped, self._core(saved, plain))
        # Where each of them can be saved alone, all together can't.
        dropped |= {name: self._dropped(value, taken) for name, value in saved.items()}
        return Group(None, frozenset(), dropped)

    def drop(self, values: Mapping[str, Any], reason: str) -> Group:
        """Return a co-variable of which nothing is saved."""
        failed = _Failed(reason)
        dropped = {name: self._dropped(value, failed) for name, value in values.items()}
        return Group(None, frozenset(), dropped)

    def is_stable(self, values: Mapping[str, Any], group: Group, plain: Set[str]) -> bool:
        """Tell whether a second image is equal: pickling some values changes them."""
        saved = {name: value for name, value in values.items() if name in group.names}
        return group.image is None or self._try(saved, measure, plain, group.image) == group.image

    def variables_unchanged(
        self, group: Group, view: Mapping[str, Any], plain: Set[str], *, untouched: bool
    ) -> frozenset[str]:
        """Return the variables of a former co-variable, if they are as they were.

        Args:
            group: the co-variable.
            view: all names and values.
            plain: see `take`.
            untouched: True if they count as such also if their pickle is never the same twice.
        """
        variables = group.variables
        before = group.image if len(variables) == len(group.names) else group.core
        if not variables or before is None or not variables <= view.keys():
            return frozenset()
        values = {name: view[name] for name in variables}
        now = self._try(values, measure, plain, before)
        if now != before and untouched and isinstance(now, Image):
            now = before if self._try(values, measure, plain, now) != now else now
        return variables if now == before else frozenset()

    def _core(self, values: Mapping[str, Any], plain: Set[str]) -> Image | None:
        variables = {name: value for name, value in values.items() if not is_output(name)}
        if not variables or len(variables) == len(values):
            return None
        core = self._try(variables, measure, plain)
        return core if isinstance(core, Image) else None

    def _try(
        self,
        values: Mapping[str, Any],
        put: Put,
        plain: Set[str],
        known: Image | None = None,
        pickled: bytes | None = None,
    ) -> Image | _Failed:
        """Return an image, or the reason why there is none."""
        self.saving = frozenset(values)
        try:
            return image(
                values,
                self._namespace,
                put,
                known,
                plain=plain >= values.keys(),
                pickled=pickled,
                limit=self._limits.value_limit or self._limits.quota or None,
                digests=self._digests,
                guard=lambda: self._guard(self._limits.saving_timeout),
            )
        except KeyboardInterrupt:
            raise
        except SavingTimeout as error:
            return _Failed(str(error), tired=True)
        except BaseException as error:  # a __reduce__ may raise SystemExit
            # Not the error itself: its frames, and those of its context, would hold the values.
            return _Failed(reason_of(error))

    def _dropped(self, value: Any, failed: _Failed) -> Dropped:
        key = self._references.key_of(value)
        again = self._references.again(key)
        if type(value) is DroppedReference:
            _, kind, known = what_was_dropped(value)
            return Dropped(kind, known, key, again=again)
        return Dropped(type_of(value), failed.reason, key, failed.tired, again)


class _Failed(NamedTuple):
    """Why there is no image."""

    reason: str
    tired: bool = False


def measure(piece: memoryview) -> bytes:
    """Stand in for a store: what is only compared need not be kept."""
    return bytes(32)


def unsaved(groups: Iterable[Group]) -> dict[str, Dropped]:
    """Return, by name, the values of some co-variables that are not saved, nor made again."""
    return {
        name: dropped
        for group in groups
        for name, dropped in group.dropped.items()
        if dropped.again is None
    }


def names_of(groups: Iterable[Group]) -> frozenset[str]:
    """Return all names of some co-variables."""
    return frozenset(name for group in groups for name in group.all_names)
