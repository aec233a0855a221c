"""Samples, targets and the Markdown table they end in."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SUBJECT = "savepoint"
"""The kernel whose ratios and targets the table shows."""

REFERENCES = ("ipykernel", "async-kernel")
"""The kernels it is compared with."""

_SCALE = {"ms": 1e3, "MiB": 2**-20, "MB": 1e-6, "kB": 1e-3}


@dataclass(slots=True)
class Series:
    """The samples of one kernel in one row, in seconds, bytes or plain numbers."""

    values: list[float] = field(default_factory=list)
    unanswered: int = 0

    def add(self, value: float | None) -> None:
        """Add a sample; None is a request that got no answer."""
        if value is None:
            self.unanswered += 1
        else:
            self.values.append(value)

    @property
    def n(self) -> int:
        """How many samples were taken, answered or not."""
        return len(self.values) + self.unanswered

    @property
    def median(self) -> float:
        """The median of the answered samples; there must be one."""
        return statistics.median(self.values)

    @property
    def deciles(self) -> tuple[float, float]:
        """p10 and p90 of the answered samples; there must be two."""
        cuts = statistics.quantiles(self.values, n=10, method="inclusive")
        return cuts[0], cuts[-1]


@dataclass(frozen=True, slots=True)
class Target:
    """What the subject has to reach in a row, all parts of it.

    Args:
        limit: The largest allowed value, in the unit of the row.
        ratios: The largest allowed multiple of another kernel's value.
    """

    limit: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)

    def text(self, unit: str) -> str:
        """The target as a table cell."""
        parts = [] if self.limit is None else [f"≤ {self.limit:g} {unit}".rstrip()]
        parts += [f"≤ {factor:g} × {name}" for name, factor in self.ratios.items()]
        return ", ".join(parts)

    def met(self, value: float, others: Mapping[str, float]) -> bool | None:
        """Whether the value reaches the target; None if a kernel it compares with is missing."""
        verdicts = [] if self.limit is None else [value <= self.limit]
        verdicts += [
            value <= factor * others[name] for name, factor in self.ratios.items() if name in others
        ]
        if not all(verdicts):
            return False
        missing = any(name not in others for name in self.ratios)
        return None if missing else True


@dataclass(slots=True)
class Row:
    """One line of the table.

    Args:
        label: What was measured.
        unit: `ms`, `s`, `MiB`, `MB`, `kB`, or nothing for plain numbers.
        target: What the subject has to reach, if anything.
        unanswered: How the cell of a kernel that never answered reads.
        out_of: For counts: the most one sample can hold. The row then shows totals, not medians.
        series: The samples by kernel.
        absent: Kernels that should have samples here, but did not start.
    """

    label: str
    unit: str = "ms"
    target: Target | None = None
    unanswered: str = "no answer"
    out_of: int | None = None
    series: dict[str, Series] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)

    def value(self, name: str) -> float | None:
        """The number that stands for a kernel, in the unit of the row."""
        series = self.series.get(name)
        if series is None or not series.values:
            return None
        value = series.median if self.out_of is None else sum(series.values)
        return value * _SCALE.get(self.unit, 1.0)

    @property
    def n(self) -> int:
        """The largest number of samples any kernel has."""
        return max((series.n for series in self.series.values()), default=0)

    def cell(self, name: str) -> str:
        """What the table says about a kernel."""
        series = self.series.get(name)
        if series is None or not series.n:
            return "absent" if name in self.absent else "–"
        if not series.values:
            return f"{self.unanswered} (0 of {series.n})"
        if self.out_of is not None:
            return f"{sum(series.values):.0f} of {self.out_of * len(series.values)}"
        scale = _SCALE.get(self.unit, 1.0)
        text = number(series.median * scale)
        if len(series.values) > 1:
            text += " [{}–{}]".format(*(number(cut * scale) for cut in series.deciles))
        if series.unanswered:
            return f"{text}, {self.unanswered}: {series.unanswered} of {series.n}"
        return text if series.n == self.n else f"{text} (n={series.n})"

    def ratio(self, reference: str) -> str:
        """The subject as a multiple of another kernel."""
        mine, theirs = self.value(SUBJECT), self.value(reference)
        if mine is None or not theirs or not self.unit:
            return "–"
        return f"{mine / theirs:.{2 if mine > 0.1 * theirs else 3}f} ×"

    def verdict(self) -> str:
        """Whether the subject reached its target."""
        series = self.series.get(SUBJECT)
        if self.target is None or series is None or not series.n:
            return "–"
        mine = self.value(SUBJECT)
        if mine is None or series.unanswered:
            return "✗ fail"
        others = {name: value for name in self.series if (value := self.value(name)) is not None}
        return {True: "✓ pass", False: "✗ fail", None: "–"}[self.target.met(mine, others)]


def number(value: float) -> str:
    """Three significant digits, and never an exponent."""
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows: Sequence[Row], names: Sequence[str], references: Sequence[str] = REFERENCES) -> str:
    """The Markdown table, its columns padded so that it also reads well in a terminal."""
    head = ["measure", "n", *names, *(f"vs {name}" for name in references), "target", "met"]
    lines = [head, ["---", "--:", *["--:"] * (len(names) + len(references)), "---", "---"]]
    for row in rows:
        label = f"{row.label} ({row.unit})" if row.unit else row.label
        cells = [row.cell(name) for name in names]
        ratios = [row.ratio(reference) for reference in references]
        target = row.target.text(row.unit) if row.target else "–"
        lines.append([label, str(row.n), *cells, *ratios, target, row.verdict()])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    padded = ([*map(str.ljust, line, widths)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
