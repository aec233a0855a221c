"""The state of the pool as text a person reads in a terminal.

Pure functions from what `status` says to strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Status = Mapping[str, Any]

_WIDTH = 14
"""Columns of a name."""


def render_status(status: Status) -> str:
    """Return the daemon in a line, and a table for each key."""
    keys = status["keys"]
    daemon = f"process {status['pid']}, up {format_age(status['age'])}"
    lines = [f"{daemon}, {count(status['kernels'], 'kernel')} in use", *_tables(keys)]
    if not keys:
        lines.append(
            "Nothing was asked for yet. The first kernel starts by itself; then standbys are kept."
        )
    return "\n".join(lines)


def _tables(keys: Sequence[Status]) -> list[str]:
    lines = []
    for key in keys:
        lines += ["", " ".join([f"key {key['key']}:", key["executable"], *key["options"]])]
        lines += [f"  {name:<{_WIDTH}}{text}" for name, text in _rows(key) if text]
        lines += [f"  {name:<{_WIDTH}}{text}" for name, text in _differences(key, keys)]
    return lines


def _rows(key: Status) -> list[tuple[str, str]]:
    idle, hits, misses, times = key["standbys"], key["hits"], key["misses"], key["acquire_ms"]
    pss = key["pss"]
    return [
        ("problem", key["problem"] or ""),
        ("arguments", " ".join(key["arguments"])),
        ("directory", key["cwd"] if key["cwd"] != "/" else ""),
        ("preload", ", ".join(key["preload"])),
        ("standbys", f"{len(idle)} of {key['min_idle']}, {key['warming']} warming"),
        ("in use", str(key["in_use"])),
        ("hits", f"{hits['standby']} standby, {hits['fork']} fork"),
        ("misses", "; ".join(f"{number} {reason}" for reason, number in misses.items()) or "0"),
        ("acquire", f"p50 {times['p50']:.3g} ms, p95 {times['p95']:.3g} ms" if times else ""),
        ("processes", ", ".join(f"{key[word]} {word}" for word in ("created", "recycled", "died"))),
        ("memory", f"{_mib(pss['standbys'])} standbys, {_mib(pss['zygote'])} zygote (PSS)"),
        ("oldest", "" if key["oldest"] is None else format_age(key["oldest"])),
        ("environment", key["environment"] or ""),
    ]


def _differences(key: Status, keys: Sequence[Status]) -> list[tuple[str, str]]:
    """Name the variables that make a key another one than those of the same command."""
    command = ("executable", "options", "arguments")
    alike = [other for other in keys if all(other[part] == key[part] for part in command)]
    names = sorted({name for other in alike for name in other["variables"]})
    return [
        (
            "only here",
            f"{name}={key['variables'][name]}" if name in key["variables"] else f"no {name}",
        )
        for name in names
        if len({other["variables"].get(name) for other in alike}) > 1
    ]


def count(number: int, noun: str) -> str:
    """Return a number of things."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_age(seconds: float) -> str:
    """Return a time in the two largest units that it has."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days:.0f} d {hours % 24:.0f} h"
    if hours:
        return f"{hours:.0f} h {minutes % 60:.0f} min"
    if minutes:
        return f"{minutes:.0f} min"
    return f"{seconds:.0f} s"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def render_options(rows: Sequence[tuple[str, object, str]]) -> str:
    """Return a table of options: name, value and where it is from."""
    texts = [(name, _value(value), source) for name, value, source in rows]
    widths = [max(len(row[column]) for row in texts) + 2 for column in (0, 1)]
    return "\n".join(
        f"{name:<{widths[0]}}{value:<{widths[1]}}{source}" for name, value, source in texts
    )


def _value(value: object) -> str:
    if isinstance(value, (list, dict)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
