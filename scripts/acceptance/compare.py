"""What passes with stock parts must pass with ours, but for the differences that have a reason."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runs import Mode, Result
from suites import Suite

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that may fail with our parts.

    Args:
        suite: its distribution.
        test: its name for pytest.
        modes: where it may fail.
        reason: why that is right.
    """

    suite: str
    test: str
    modes: tuple[str, ...]
    reason: str


def listed(file: Path) -> list[Difference]:
    """Read the differences there are reasons for."""
    entries = tomllib.loads(file.read_text()).get("difference", [])
    return [Difference(**{**entry, "modes": tuple(entry["modes"])}) for entry in entries]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A suite's result in a mode of ours beside the stock one."""

    suite: Suite
    mode: Mode
    stock: Result
    ours: Result
    second: Result
    """Of the tests that had not passed."""
    differences: tuple[Difference, ...]
    """Those listed for the suite and mode."""

    def lost(self) -> set[str]:
        """Return the tests that pass stock only, listed or not."""
        return self.stock.passed() - self.ours.passed() - self.second.passed()

    def unlisted(self) -> set[str]:
        """Return the tests that pass stock only, and nobody knows why."""
        return self.lost() - {difference.test for difference in self.differences}

    def row(self) -> str:
        """Describe it in a line of a table."""
        stock, lost = len(self.stock.passed()), len(self.lost())
        flaky = len(self.stock.passed() & self.second.passed())
        numbers = f"{stock:5} {stock - lost:5} {flaky:5} {lost:5} {len(self.unlisted()):8}"
        pooled = self.ours.kernels.get("from the pool", "-")
        return (
            f"{self.suite.name:15} {self.mode.name:12} {numbers} {pooled:>6} "
            f"{self.stock.seconds:6.0f} s {self.ours.seconds:6.0f} s"
        )

    def remarks(self) -> Iterator[str]:
        """Describe what somebody should look at."""
        for test in sorted(self.unlisted()):
            yield f"{self.suite.name}, {self.mode.name}: {test} passes stock and fails here"
        for difference in self.differences:
            if difference.test in self.ours.passed():
                yield f"{self.suite.name}, {self.mode.name}: {difference.test} is listed and passes"


HEAD = (
    f"{'suite':15} {'mode':12} {'stock':>5} {'ours':>5} {'2nd':>5} {'less':>5} {'unlisted':>8} "
    f"{'pooled':>6} {'stock':>8} {'ours':>8}"
)
