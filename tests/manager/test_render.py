from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from PIL import Image

from savepoint_manager import render


def show(*outputs: NotebookNode, color: bool = False) -> list[str]:
    """Render outputs and take the margin off."""
    rendered = render.render_outputs(outputs, color=color)
    return ["\n".join(line.strip() for line in text.splitlines()) for text in rendered]


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def display(**data: Any) -> NotebookNode:
    return new_output("display_data", {name.replace("_", "/"): v for name, v in data.items()})


def image(kind: str, size: tuple[int, int], **options: Any) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def test_stream_sent_in_pieces_is_one_output() -> None:
    assert show(stream("a"), stream("b\n"), stream("e\n", "stderr"), stream("c\n")) == [
        "ab",
        "e",
        "c",
    ]


def test_progress_bar_shows_its_last_state() -> None:
    assert show(stream("start\n 10%\r 50%"), stream("\r100%\nend\r\n")) == ["start\n100%\nend"]


def test_plain_text_is_preferred_to_what_a_terminal_cannot_show() -> None:
    assert show(display(text_html="<b>1</b>", text_plain="1")) == ["1"]
    assert show(display(text_html="<b>1</b>")) == ["[text/html 8 bytes]"]
    assert show(display(text_html="<b>1</b>", text_markdown="**1**")) == ["**1**"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("png", {}), ("jpeg", {}), ("jpeg", {"progressive": True, "exif": b"Exif\0\0" + b"x" * 999})],
)
def test_image_is_shown_by_type_and_size(kind: str, options: dict[str, Any]) -> None:
    data = {f"image/{kind}": image(kind, (432, 288), **options), "text/plain": "<Figure>"}
    assert show(new_output("display_data", data)) == [f"[image/{kind} 432x288]"]


@pytest.mark.parametrize(
    "data", ["not base64!", "", base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()]
)
def test_broken_image_is_still_mentioned(data: str) -> None:
    assert show(display(image_png=data)) == [f"[image/png {len(data)} bytes]"]


def test_svg_is_shown_by_its_length() -> None:
    svg = new_output("display_data", {"image/svg+xml": "<svg>" + "x" * 1991 + "</svg>"})
    assert show(svg) == ["[image/svg+xml 2 kB]"]


def test_widget_is_named() -> None:
    view = {render.WIDGET_VIEW: {"model_id": "abc"}, "text/plain": "Button(description='Go')"}
    assert show(new_output("display_data", view)) == ["[widget: Button(description='Go')]"]
    del view["text/plain"]
    assert show(new_output("display_data", view)) == ["[widget: abc]"]


def test_error_is_its_traceback() -> None:
    error = new_output("error", ename="E", evalue="v", traceback=["\x1b[31mE\x1b[0m", "  v"])
    assert show(error) == ["E\nv"]
    assert show(error, color=True) == ["\x1b[31mE\x1b[0m\nv"]
    assert show(new_output("error", ename="E", evalue="v", traceback=[])) == ["E: v"]


def test_links_and_titles_are_removed_with_the_colors() -> None:
    assert show(stream("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x1b[1;31mred\x1b[K")) == [
        "link red"
    ]


def test_long_output_says_how_much_is_left_out() -> None:
    (text,) = show(stream("".join(f"{i}\n" for i in range(1000))))
    assert text.splitlines()[-2:] == ["39", "... 960 more lines"]
    (text,) = show(stream("x\n" * (render.OUTPUT_LINES + 1)))
    assert text.count("x") == render.OUTPUT_LINES + 1


def test_source_is_numbered_and_shortened() -> None:
    assert render.render_source(new_code_cell("a = 1\n\nb = 2\n"), 7) == (
        "In [7]: a = 1\n   ...:\n   ...: b = 2"
    )
    long = render.render_source(new_code_cell("\n".join(map(str, range(30)))), 1)
    assert long.splitlines()[-1] == "   ...: ... 22 more lines"


def test_heading_of_a_markdown_cell() -> None:
    assert render.render_heading(new_markdown_cell("text\n## Title\nmore")) == "## Title"
    assert render.render_heading(new_markdown_cell("text")) == ""


def test_cost_of_a_cell_in_one_line() -> None:
    stats = {"wall_ms": 1534.2, "cpu_ms": 3.456, "peak_rss_bytes": 95_190_016, "dropped_bytes": 0}
    line = "-- 1.5 s, cpu 3.46 ms, peak 95.2 MB"
    assert render.render_stats(stats).strip() == line
    assert render.render_stats({**stats, "dropped_bytes": 2e9}).strip() == (
        f"{line}, 2 GB of output dropped"
    )
    assert render.render_stats({}) == ""
