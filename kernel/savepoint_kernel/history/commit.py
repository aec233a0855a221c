"""What a commit says: which cell, what it changed, where its state is. Stored as JSON.

JSON, so that the timeline of a store nobody trusts yet can be shown without unpickling anything.

Threads: any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import CorruptStore
from ..state.view import is_output

FORMAT = 1


@dataclass(frozen=True, slots=True)
class CellInfo:
    """The cell a commit ends.

    Attributes:
        text: as the user wrote it.
        execution_count: its number.
        cell_id: the front end's id, if it sent one.
        failure: why it failed, as in ``failure_kind``; "none" if it did not.
    """

    text: str
    execution_count: int
    cell_id: str | None = None
    failure: str = "none"

    @property
    def first_line(self) -> str:
        """The first line that says something."""
        return next((line.strip() for line in self.text.splitlines() if line.strip()), "")


@dataclass(frozen=True, slots=True, repr=False)
class Commit:
    """A state of the session.

    Attributes:
        number: counts the commits of a store, from 1.
        parent: number of the commit before it; None for the first.
        time: seconds since the epoch.
        branch: the branch it was made on.
        kind: "start" (of a process), "cell", "checkpoint", "outside" (changed between cells: by a
            widget, a thread) or "audit" (found by one).
        cell: the cell; None if there was none.
        message: what the user wrote about it.
        added: names that are new.
        changed: names that were there and are not as they were.
        removed: names that are gone.
        touched: names that may have changed; what they stand for can be neither saved nor compared.
        process_changed: what is not as it was of the process, such as "os.environ".
        dropped: why names are not saved, for all of them.
        stored_bytes: what it added to the store.
        ms: milliseconds its capture took.
        verified: "full" if every name was looked at, else "touched".
        buckets: addresses of its table, in hex.
        process: addresses of the tokens of process state, in hex, by participant; empty if there is
            none.
    """

    number: int
    parent: int | None
    time: float
    branch: str
    kind: str
    cell: CellInfo | None
    message: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    process_changed: tuple[str, ...]
    dropped: Mapping[str, str]
    stored_bytes: int
    ms: float
    verified: str
    buckets: tuple[str, ...]
    process: Mapping[str, str] = field(default_factory=dict)
    touched: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the manifest for the store."""
        content = {name: getattr(self, name) for name in self.__slots__}
        if self.cell is not None:
            content["cell"] = {name: getattr(self.cell, name) for name in self.cell.__slots__}
        return json.dumps({"format": FORMAT, **content}).encode()

    def __repr__(self) -> str:
        """Return a line: a front end shows it when a cell ends in an undo or a checkpoint."""
        return f"<commit {self.number}: {self.label}>"

    @property
    def has_changes(self) -> bool:
        """True if it is not as the one before, but for results that IPython keeps."""
        names = (*self.added, *self.changed, *self.removed, *self.touched)
        return bool(self.process_changed) or not all(map(is_output, names))

    @property
    def label(self) -> str:
        """What to call it in a list."""
        if self.message:
            return self.message
        if self.cell is not None:
            return self.cell.first_line
        labels = {
            "start": "kernel started",
            "audit": "changed unnoticed",
            "checkpoint": "checkpoint",
        }
        return labels.get(self.kind, "changed between cells")


def as_number(text: str) -> int | None:
    """Return the number of a commit that a text is, in plain digits; None if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def decode(manifest: bytes) -> Commit:
    """Read a manifest back.

    Raises:
        CorruptStore: it is none, or one of a newer format.
    """
    try:
        content: dict[str, Any] = json.loads(manifest)
        if content.pop("format") != FORMAT:
            raise CorruptStore(
                "the store was written by a newer version; upgrade jupyter-savepoint"
            )
        cell = content.pop("cell")
        for name in ("added", "changed", "removed", "process_changed", "buckets", "touched"):
            content[name] = tuple(content.get(name, ()))
        return Commit(cell=None if cell is None else CellInfo(**cell), **content)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStore(f"a commit can't be read: {error!r}") from error
