"""What is to be restored, loaded and not yet bound: all of it works, or nothing has been touched.

    `Staging.add`     loads a co-variable beside the living one       may fail
    `Staging.apply`   live classes get their attributes back, live objects their contents

A class that is alive stays the object it is. Its attributes are part of its own co-variable; an
instance's pickle has them too, and they count only if no name stands for the class.

Threads: the one that owns the namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from ..exceptions import UnrestorableState
from ..state.fingerprint import Contents, Image, Loaded, Source, read, values_of
from ..state.imager import Dropped, Group
from ..state.inplace import Anchors, put_back
from ..state.liverefs import DroppedReference, LiveReferences, way_back, what_was_dropped
from ..state.pairing import FootprintOf
from .patch import Live, Patch, find_patch, may_be_patched
from .reuse import reusable, same_frame

Read = Callable[[Image], Contents]


class Staging:
    """Co-variables about to be restored.

    Args:
        namespace: the live namespace.
        source: the store.
        read: reads from it all of a co-variable.
        references: the values that are not in it.

    Attributes:
        unrestorable: why names are not, or not quite, as they were.
        missing: placeholders of objects that can be made again.
    """

    def __init__(
        self, namespace: dict[str, Any], source: Source, read: Read, references: LiveReferences
    ) -> None:
        self._namespace = namespace
        self._source = source
        self._read = read
        self._references = references
        self._loaded: list[tuple[Loaded, Anchors | None, Any]] = []
        self._patches: list[tuple[Patch, Live]] = []
        self._copies: list[Anchors] = []
        self._stand_ins: dict[str, Any] = {}
        self.unrestorable: dict[str, str] = {}
        self.missing: dict[str, DroppedReference] = {}

    def add(self, group: Group, live: Live | None, anchors: Anchors | None = None) -> None:
        """Load a co-variable, or as much of it as differs.

        Args:
            group: the co-variable.
            live: the names as they are now; None if they are not one co-variable now.
            anchors: its original objects, to be refilled; None if there are none.

        Raises:
            UnrestorableState: that is not possible here.
        """
        if anchors is not None and anchors.contents is not None:
            self._copies.append(anchors)
        elif not self._patch(group, live, anchors) and group.image is not None:
            self._load(group, live, anchors)
        for name, dropped in group.dropped.items():
            value = self._references.get(dropped.key)
            if value is None:
                value = DroppedReference(name, dropped.type, dropped.reason, dropped.again)
                if dropped.again is not None:
                    self.missing[name] = value
            # What lives on may itself be the placeholder that an earlier way back has left.
            is_lost = type(value) is DroppedReference
            self.unrestorable[name] = lost(value) if is_lost else same_object(dropped)
            self._stand_ins[name] = value

    def _patch(self, group: Group, live: Live | None, anchors: Anchors | None) -> bool:
        """Read no more than the bytes that differ; False if more than bytes does."""
        if (
            live is None
            or anchors is None
            or not may_be_patched(group, live)
            or not anchors.are_in(live.values, self._namespace)
        ):
            return False
        with _explained(group):
            patch = find_patch(group, live, self._namespace, self._source)
        if patch is not None:
            self._patches.append((patch, live))
        return patch is not None

    def _load(self, group: Group, live: Live | None, anchors: Anchors | None) -> None:
        reader, frame = self._read, None
        if live is not None and anchors is not None:
            frame = same_frame(live, anchors)
            if frame is not None:
                with _explained(group):
                    present = reusable(frame, live, self._namespace)
                reader = partial(read, source=self._source, present=present)
        self._loaded.append((load(group, self._namespace, reader), anchors, frame))

    @property
    def loaded(self) -> dict[str, Any]:
        """What was made anew, by name."""
        return {n: value for loaded, *_ in self._loaded for n, value in loaded.values.items()}

    def as_known(self, footprint_of: FootprintOf) -> Iterator[str]:
        """Yield the names that will stand for the known objects, so that no look need tell so.

        Args:
            footprint_of: returns what is known of a name, in the state that is restored.
        """
        for copied in self._copies:
            if copied.alive() != [None]:
                yield from copied.roots
        for _, live in self._patches:
            if all(live.footprints[name] == footprint_of(name) for name in live.values):
                yield from live.values

    def keep(self, group: Group, view: Mapping[str, Any], reason: str) -> None:
        """Leave names that can't be loaded as they are; those that are gone get placeholders."""
        for name in group.all_names:
            self.unrestorable[name] = reason
            missing = DroppedReference(name, "value that can't be loaded", reason)
            self._stand_ins[name] = view.get(name, missing)

    def apply(self, others: Iterable[Any]) -> dict[str, Any]:
        """Refill live classes and objects; returns what the names are to be bound to.

        Args:
            others: the values of names that stay as they are.
        """
        loaded_values = (value for loaded, *_ in self._loaded for value in loaded.values.values())
        named = {id(value) for value in (*others, *loaded_values) if _is_class(value)}
        values: dict[str, Any] = {}
        for copied in self._copies:
            values |= copied.refill()
        for patch, live in self._patches:
            patch.apply()
            values |= live.values
        for loaded, anchors, frame in self._loaded:
            own = {id(value) for value in loaded.values.values()}
            for cls, restore in loaded.classes.items():
                if id(cls) in own or id(cls) not in named:
                    restore()
            values |= loaded.values
            if anchors is not None:
                # A SystemExit of some __hash__ can't stop it half way: the new objects will do.
                with suppress(BaseException):
                    values |= put_back(loaded.values, anchors, self._namespace)
            if frame is not None:
                name = next(iter(loaded.values))
                if values[name] is not frame:  # which may live on, and has its memory
                    values |= dict.fromkeys(loaded.values, values[name].copy())
        return values | self._stand_ins


def load(group: Group, namespace: dict[str, Any], read: Read) -> Loaded:
    """Make the saved values of a co-variable anew; nothing that exists is touched.

    Raises:
        UnrestorableState: that is not possible here.
    """
    assert group.image is not None
    with _explained(group):
        return values_of(read(group.image), namespace)


@contextmanager
def _explained(group: Group) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a __setstate__ may raise SystemExit
        raise UnrestorableState(
            f"{', '.join(sorted(group.names))} can't be loaded: {type(error).__name__}: {error}"
        ) from error


def same_object(dropped: Dropped) -> str:
    """Say of a value that is not saved that it still is the object it was."""
    return f"the {dropped.type} is the same object, as it is now: it can't be saved"


def lost(placeholder: DroppedReference) -> str:
    """Say why there is a placeholder."""
    _, kind, reason = what_was_dropped(placeholder)
    tried = way_back(placeholder) is not None
    return f"a {kind} was not saved{', and' if tried else ':'} {reason}"


def _is_class(value: Any) -> bool:
    return issubclass(type(value), type)  # isinstance() asks a proxy, which may be dead
