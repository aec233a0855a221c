"""Runs test suites of Jupyter's own packages on our provisioner, kernelspec and pool.

    python scripts/acceptance [--only SUITE] [--mode MODE] [--keep-stock]

Every test that passes with stock parts, on the same machine in the same run, must pass with ours;
exceptions are in differences.toml, with their reasons. A test that does not pass is run once more
by itself: a busy machine makes any of these suites fail now and then.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from compare import HEAD, Comparison, Difference, listed
from runs import OURS, STOCK, Mode, Result, Workshop
from suites import SUITES, Suite

DIFFERENCES = Path(__file__).with_name("differences.toml")
DIRECTORY = Path(".acceptance")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/acceptance")
    for option, names in (("--only", SUITES), ("--mode", OURS)):
        parser.add_argument(
            option, action="append", choices=[item.name for item in names], help="may be repeated"
        )
    parser.add_argument(
        "--keep-stock", action="store_true", help="compare with the stock results there are"
    )
    options = parser.parse_args()
    suites = [suite for suite in SUITES if suite.name in (options.only or [suite.name])]
    modes = [mode for mode in OURS if mode.name in (options.mode or [mode.name])]

    workshop = Workshop(DIRECTORY.absolute())
    comparisons = list(compared(workshop, suites, modes, listed(DIFFERENCES), options.keep_stock))
    print(HEAD, *(comparison.row() for comparison in comparisons), sep="\n")
    for comparison in comparisons:
        for remark in comparison.remarks():
            print(remark)
    print(f"Output of pytest: {workshop.results}")
    return int(any(comparison.unlisted() for comparison in comparisons))


def compared(
    workshop: Workshop,
    suites: Sequence[Suite],
    modes: Sequence[Mode],
    differences: Sequence[Difference],
    keep_stock: bool,
) -> Iterator[Comparison]:
    """Run each suite with stock parts, then in each mode."""
    for suite in suites:
        stock = workshop.kept(suite, STOCK) if keep_stock else Result({}, 0.0, {})
        if not stock.outcomes:
            stock = run(workshop, suite, STOCK)
        for mode in modes:
            ours = run(workshop, suite, mode)
            lost = sorted(stock.passed() - ours.passed())
            second = run(workshop, suite, mode, lost) if lost else Result({}, 0.0, {})
            known = (d for d in differences if d.suite == suite.name and mode.name in d.modes)
            yield Comparison(suite, mode, stock, ours, second, tuple(known))


def run(workshop: Workshop, suite: Suite, mode: Mode, tests: Sequence[str] = ()) -> Result:
    """Run tests, and say so: each takes minutes."""
    which = f"{len(tests)} tests of {suite.name} again" if tests else suite.name
    print(f"{which}, {mode.name} ...", end=" ", flush=True)
    result = workshop.run(suite, mode, tests)
    print(
        f"{len(result.passed())} of {len(result.outcomes)} passed in {result.seconds:.0f} s",
        *(f"{count} {what}" for what, count in sorted(result.kernels.items())),
        sep="; ",
        flush=True,
    )
    if not result.passed() and not tests:
        sys.exit(f"Nothing passed: see {workshop.log(suite, mode)}")
    return result


if __name__ == "__main__":
    sys.exit(main())
