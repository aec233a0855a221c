"""How the timeline shows itself: as plain text, and as HTML where the front end has it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from .state.view import is_output

if TYPE_CHECKING:
    from .history.checkout import Restored
    from .history.commit import Commit
    from .history.keeping import Contents, Session
    from .state.liverefs import Reference

NAMES = 6
"""Names listed of one kind, before "and N more"."""

LATEST = 10
"""How many of a store's commits are shown before it is trusted."""


@dataclass(frozen=True)
class TimelineTable:
    """Commits, oldest first.

    Attributes:
        commits: those to show.
        head: number of the commit that is the present state.
        names: names of commits, by number.
    """

    commits: Sequence[Commit]
    head: int
    names: Mapping[int, Sequence[str]]

    _HEADINGS = ("", "#", "time", "cell", "changes", "size", "ms", "branch")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                "*" if commit.number == self.head else "",
                str(commit.number),
                time.strftime("%H:%M:%S", time.localtime(commit.time)),
                _cell(commit, self.names.get(commit.number, ())),
                _changes(commit),
                _size(commit.stored_bytes),
                f"{commit.ms:.1f}",
                commit.branch,
            )
            for commit in self.commits
        ]

    def __repr__(self) -> str:
        return _text_table(self._HEADINGS, self._rows())

    def _repr_html_(self) -> str:
        return _html_table(self._HEADINGS, self._rows())


def _cell(commit: Commit, names: Sequence[str]) -> str:
    label = printable(str(commit.label))
    label = label if len(label) <= 50 else label[:49] + "…"
    if commit.cell is not None:
        label = f"[{commit.cell.execution_count}] {label}"
        if commit.cell.failure != "none":
            label += f" ({commit.cell.failure})"
    return " ".join([*(f"<{name}>" for name in names), label])


def _changes(commit: Commit) -> str:
    kinds = (
        ("+", commit.added),
        ("~", commit.changed),
        ("-", commit.removed),
        ("?", commit.touched),
        ("~", commit.process_changed),
        ("not saved: ", [name for name in commit.dropped if name in _touched(commit)]),
    )
    return "  ".join(text for sign, names in kinds if (text := _names(names, sign)))


def _touched(commit: Commit) -> set[str]:
    return {*commit.added, *commit.changed}


def _names(names: Iterable[str], sign: str) -> str:
    listed = [name for name in names if not is_output(name)]
    more = f" and {len(listed) - NAMES} more" if len(listed) > NAMES else ""
    return f"{sign}{', '.join(listed[:NAMES])}{more}" if listed else ""


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    )
    return "\n".join(lines)


def _html_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def printable(text: str) -> str:
    """Return a text of unknown origin without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):  # a damaged or foreign store may say anything
        return "?"


@dataclass(frozen=True)
class Change:
    """What an undo, redo, restore or rollback did."""

    what: str
    restored: Restored

    def __repr__(self) -> str:
        commit = self.restored.commit
        lines = [f"{self.what}: the state is that of commit {commit.number} ({commit.label})."]
        made = _names(self.restored.recreated, "  made again by recreate(): ")
        for text in (_names(self.restored.changed, "  set: "), self._removed(), made):
            if text:
                lines.append(text)
        lines += [
            f"  not as it was: {name}: {reason}"
            for name, reason in self.restored.unrestorable.items()
            if not is_output(name)
        ]
        return "\n".join(lines)

    def _removed(self) -> str:
        return _names(self.restored.removed, "  deleted: ")


@dataclass(frozen=True)
class ReferenceTable:
    """What users put among the live references."""

    references: Sequence[Reference]

    _HEADINGS = ("live reference", "type", "alive", "recreate", "key")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                each.name,
                each.type,
                "yes" if each.alive else "no",
                "yes" if each.recreate else "no",
                each.key,
            )
            for each in self.references
        ]

    def __repr__(self) -> str:
        return _text_table(self._HEADINGS, self._rows())

    def _repr_html_(self) -> str:
        return _html_table(self._HEADINGS, self._rows())


@dataclass(frozen=True)
class Difference:
    """Two commits compared.

    Attributes:
        older: what the first is called.
        newer: what the second is called.
        lines: one for each name: its name, the first value, the second.
    """

    older: str
    newer: str
    lines: Sequence[tuple[str, str, str]]

    def __repr__(self) -> str:
        if not self.lines:
            return f"{self.older} and {self.newer} have the same names and values."
        lines = [tuple(map(printable, line)) for line in self.lines]
        return _text_table(("name", self.older, self.newer), lines)


@dataclass(frozen=True)
class Status:
    """Where the timeline is and how large."""

    entries: Mapping[str, str]

    def __repr__(self) -> str:
        width = max(map(len, self.entries))
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in self.entries.items())


@dataclass(frozen=True)
class Option:
    """An option of the kernel's timeline.

    Attributes:
        name: of the trait.
        value: at present.
        help: what it is for, in one sentence.
        at_start: whether it can't be set while the kernel runs.
    """

    name: str
    value: Any
    help: str
    at_start: bool


@dataclass(frozen=True)
class OptionTable:
    """Options and their values."""

    options: Sequence[Option]

    _HEADINGS = ("option", "value", "set", "")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (each.name, repr(each.value), "at start" if each.at_start else "any time", each.help)
            for each in self.options
        ]

    def __repr__(self) -> str:
        return _text_table(self._HEADINGS, self._rows())

    def _repr_html_(self) -> str:
        return _html_table(self._HEADINGS, self._rows())


@dataclass(frozen=True)
class SessionTable:
    """Sessions on disk.

    Attributes:
        sessions: those to show.
        own: name of that of this kernel; None if it has none.
        root: where they are; "" if that does not matter.
    """

    sessions: Sequence[Session]
    own: str | None = None
    root: str = ""

    _HEADINGS = ("", "session", "of", "last commit", "commits", "size", "open")

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                "*" if each.name == self.own else "",
                printable(each.name),
                _session_of(each),
                _date(each.time),
                "damaged" if each.commits is None else str(each.commits),
                _size(each.size),
                "open" if each.is_open else "",
            )
            for each in self.sessions
        ]

    def __repr__(self) -> str:
        if not self.sessions:
            return f"There are no sessions in {self.root}"
        where = f"\nThey are in {self.root}" if self.root else ""
        return _text_table(self._HEADINGS, self._rows()) + where

    def _repr_html_(self) -> str:
        where = f"<p>They are in {escape(self.root)}</p>" if self.root else ""
        return _html_table(self._HEADINGS, self._rows()) + where


def _session_of(session: Session) -> str:
    origin = session.origin
    what = origin.notebook or ("a kernel" if origin.kind == "kernel" else "")
    beside = f" (beside {origin.beside})" if origin.beside else ""
    return printable(what + beside)


@dataclass(frozen=True)
class StoreContents:
    """What is in a store that the user may trust."""

    contents: Contents

    def __repr__(self) -> str:
        contents, info = self.contents, self.contents.info
        keys = sorted({c.key_id.hex() for c in info.commits if not c.signed})
        lines = [
            f"store     {printable(str(contents.directory))}",
            f"commits   {len(info.commits)}, of which {contents.foreign} are not signed by you",
        ]
        if keys:
            lines.append(f"keys      yours: {contents.key.hex()}; theirs: {', '.join(keys)}")
        if contents.forged:
            lines.append(f"changed   {contents.forged} after you signed them, by someone else")
        names = [printable(name) for name in sorted(info.refs)]
        lines.append(f"names     {', '.join(names) or 'none'}")
        lines.append(f"size      {_size(info.disk_bytes)}, {_size(info.damaged_bytes)} damaged")
        latest = info.commits[-LATEST:]
        if latest:
            lines.append("latest commits, and the cells they say they are of:")
            lines += [f"  {_date(c.time / 1e9)}  {printable(c.label)[:80]}" for c in latest]
        return "\n".join(lines)
