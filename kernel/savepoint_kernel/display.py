"""How the timeline shows itself: as plain text, and as HTML where the front end has it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from .state.view import is_output

if TYPE_CHECKING:
    from .history.commit import Commit
    from .history.timeline import Restored

NAMES = 6
"""Names listed of one kind, before "and N more"."""


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
        head = "".join(f"<th>{escape(text)}</th>" for text in self._HEADINGS)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>"
            for row in self._rows()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(commit: Commit, names: Sequence[str]) -> str:
    label = commit.label if len(commit.label) <= 50 else commit.label[:49] + "…"
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


@dataclass(frozen=True)
class Change:
    """What an undo, redo, restore or rollback did."""

    what: str
    restored: Restored

    def __repr__(self) -> str:
        commit = self.restored.commit
        lines = [f"{self.what}: the state is that of commit {commit.number} ({commit.label})."]
        for text in (_names(self.restored.changed, "  set: "), self._removed()):
            if text:
                lines.append(text)
        lines += [
            f"  not as it was: {name}: {reason}"
            for name, reason in self.restored.unrestorable.items()
        ]
        return "\n".join(lines)

    def _removed(self) -> str:
        return _names(self.restored.removed, "  deleted: ")


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
        return _text_table(("name", self.older, self.newer), self.lines)


@dataclass(frozen=True)
class Status:
    """Where the timeline is and how large."""

    entries: Mapping[str, str]

    def __repr__(self) -> str:
        width = max(map(len, self.entries))
        return "\n".join(f"{name.ljust(width)}  {value}" for name, value in self.entries.items())
