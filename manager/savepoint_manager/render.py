"""Cells and their outputs as text a person reads in a terminal.

Pure functions from notebook nodes to strings: no printing, no state. What text can't show is named
in square brackets with its size, so that nothing a cell put out goes unmentioned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from nbformat import NotebookNode

from .images import pixel_size

SOURCE_LINES = 8
OUTPUT_LINES = 40
MARGIN = " " * 8
_CONTINUED = "   ...: "

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# Readable as they are, the best first.
_TEXT_TYPES = ("text/plain", "text/markdown", "text/latex")

# CSI sequences (colours, cursor) and OSC sequences (links, titles).
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_OVERWRITTEN = re.compile(r"^[^\n]*\r(?=[^\r\n])", re.MULTILINE)


def render_heading(cell: NotebookNode) -> str:
    """Return the first heading of a Markdown cell, or an empty string."""
    for line in str(cell.source).splitlines():
        if line.startswith("#"):
            return line
    return ""


def render_source(cell: NotebookNode, number: int) -> str:
    """Return the source of a code cell, shortened, beside its number in the run."""
    first, *more = _shorten(str(cell.source).strip(), SOURCE_LINES).splitlines() or [""]
    lines = [f"In [{number}]: {first}", *(f"{_CONTINUED}{line}".rstrip() for line in more)]
    return "\n".join(lines)


def render_outputs(outputs: Iterable[NotebookNode], *, color: bool) -> list[str]:
    """Return what a cell put out.

    Args:
        outputs: of one cell. Adjacent pieces of one stream become one text.
        color: keep colours and other terminal sequences; else remove them.

    Returns:
        One text per output, without a trailing newline.
    """
    rendered = []
    # A kernel sends a stream in as many pieces as it flushes; a reader wants one text.
    for _, pieces in groupby(outputs, key=_run_of):
        text = "".join(map(_render_output, pieces))
        text = _OVERWRITTEN.sub("", text).expandtabs()
        if not color:
            text = _ANSI.sub("", text)
        rendered.append(_indent(_shorten(text.strip("\n"), OUTPUT_LINES)))
    return rendered


def render_stats(stats: Mapping[str, Any]) -> str:
    """Return one line on what a cell cost, from ``execute_reply.metadata.savepoint.stats``."""
    parts = []
    if "wall_ms" in stats:
        parts.append(format_duration(stats["wall_ms"] / 1000))
    if "cpu_ms" in stats:
        parts.append(f"cpu {format_duration(stats['cpu_ms'] / 1000)}")
    if "peak_rss_bytes" in stats:
        parts.append(f"peak {_format_bytes(stats['peak_rss_bytes'])}")
    if stats.get("dropped_bytes"):
        parts.append(f"{_format_bytes(stats['dropped_bytes'])} of output dropped")
    return f"{MARGIN}-- {', '.join(parts)}" if parts else ""


def format_duration(seconds: float) -> str:
    """Return a duration with the unit and the digits that suit it."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.1f} s"


def _run_of(output: NotebookNode) -> str | int:
    """Key that adjacent pieces of one stream share; every other output stands for itself."""
    return str(output.name) if output.output_type == "stream" else id(output)


def _render_output(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return "\n".join(output.traceback) or f"{output.ename}: {output.evalue}"
    return _render_bundle(output.data)


def _render_bundle(data: Mapping[str, Any]) -> str:
    """Return the representation of a MIME bundle that says most in a terminal."""
    if WIDGET_VIEW in data:
        return f"[widget: {data.get('text/plain', data[WIDGET_VIEW].get('model_id'))}]"
    for mime, content in data.items():
        if mime.startswith("image/"):
            size = pixel_size(content)
            return f"[{mime} {size[0]}x{size[1]}]" if size else _render_opaque(mime, content)
    for mime in _TEXT_TYPES:
        if mime in data:
            return str(data[mime])
    return "\n".join(_render_opaque(mime, content) for mime, content in data.items())


def _render_opaque(mime: str, content: object) -> str:
    return f"[{mime} {_format_bytes(len(str(content).encode()))}]"


def _format_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _shorten(text: str, limit: int) -> str:
    lines = text.splitlines()
    if len(lines) <= limit + 1:  # the line that says so takes one too
        return text
    return "\n".join([*lines[:limit], f"... {len(lines) - limit} more lines"])


def _indent(text: str) -> str:
    return "\n".join(f"{MARGIN}{line}".rstrip() for line in text.splitlines())
