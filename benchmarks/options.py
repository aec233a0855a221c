"""What the command lines of the benchmarks have in common, and the end of each: its table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path


def names_in(choices: Collection[str]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated list of these names."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(choices)}")
        return names

    return parse


def add_common(parser: argparse.ArgumentParser, measures: Collection[str]) -> None:
    """Add what every benchmark takes."""
    parser.add_argument(
        "--only",
        type=names_in(measures),
        default=list(measures),
        metavar="NAME,..",
        help=f"measures to run: {', '.join(measures)}",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")


def publish(report: str, file: Path | None) -> None:
    """Print the table, and write it where the command line says."""
    print(report)
    if file:
        file.write_text(report, encoding="utf-8")
