from __future__ import annotations

import base64
import io
import re
import shutil

import nbformat
import pytest
from nbformat import NotebookNode
from PIL import Image

from savepoint_manager.batch import NotebookRunner
from savepoint_manager.render import WIDGET_VIEW

from .harness import DEMO, KERNEL

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(KERNEL != "savepoint", reason="the demo shows what stock ipykernel lacks"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The demo notebook, run in a copy of its folder."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    shutil.copytree(DEMO, folder)
    notebook = nbformat.read(folder / "demo.ipynb", as_version=4)
    runner = NotebookRunner(
        notebook,
        kernel_name=KERNEL,
        answers=folder / "answers.txt",
        resources={"metadata": {"path": str(folder)}},
        timeout=100,
    )
    return runner.execute()


def outputs(notebook: NotebookNode, cell_id: str) -> list[NotebookNode]:
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    return cell.outputs


def stdout(notebook: NotebookNode, cell_id: str) -> str:
    return "".join(o.text for o in outputs(notebook, cell_id) if o.get("name") == "stdout")


def test_no_cell_fails_or_complains(demo: NotebookNode) -> None:
    shown = [o for cell in demo.cells if cell.cell_type == "code" for o in cell.outputs]
    assert [o for o in shown if o.output_type == "error" or o.get("name") == "stderr"] == []


def test_table_has_all_rows(demo: NotebookNode) -> None:
    assert stdout(demo, "load").startswith("1095 rows, 01 January 2023 to 31 December 2023")
    (table,) = [o for o in outputs(demo, "group") if o.output_type == "execute_result"]
    assert re.search(r"^Dec +\d+ +197 ", table.data["text/plain"], re.MULTILINE)
    assert "<table" in table.data["text/html"]


def test_answers_from_the_file_are_used(demo: NotebookNode) -> None:
    station, mark = (DEMO / "answers.txt").read_text().split()
    assert f"Which gauge? {station}\n" in stdout(demo, "ask")
    assert f"in cm? {mark}\n" in stdout(demo, "ask")
    assert stdout(demo, "floods").startswith(f"{station} stood at {mark} cm or more 12 times:\n")


def test_plot_is_drawn(demo: NotebookNode) -> None:
    (plot,) = outputs(demo, "plot")
    image = Image.open(io.BytesIO(base64.b64decode(plot.data["image/png"]))).convert("RGB")
    assert image.width > 400
    assert image.height > 200
    colors = image.getcolors(maxcolors=image.width * image.height)
    assert colors is not None
    white = max(count for count, _ in colors) / (image.width * image.height)
    assert 0.3 < white < 0.98
    orangered = (255, 69, 0)
    assert {color: count for count, color in colors}[orangered] > 100


def test_widget_is_shown_with_its_last_state(demo: NotebookNode) -> None:
    (view,) = [o.data[WIDGET_VIEW] for o in outputs(demo, "widget") if "data" in o]
    state = demo.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    children = [
        state[reference.removeprefix("IPY_MODEL_")]["state"]
        for reference in state[view["model_id"]]["state"]["children"]
    ]
    slider, label = children
    assert slider["value"] == 240
    assert label["value"] == "Floods from 240 cm on: 12"
    assert stdout(demo, "widget").splitlines()[:2] == [
        "Floods from 180 cm on: 14",
        "Floods from 300 cm on: 1",
    ]


def test_source_of_a_class_and_a_function_is_there(demo: NotebookNode) -> None:
    text = stdout(demo, "source")
    assert text.startswith("@dataclass(frozen=True)\nclass Flood:\n    first: date\n")
    assert "def find_floods(level, mark):\n    high = level >= mark\n" in text


def test_every_cell_says_what_it_cost(demo: NotebookNode) -> None:
    for cell in demo.cells:
        if cell.cell_type == "code":
            stats = cell.metadata["savepoint"]["stats"]
            assert stats["wall_ms"] > 0
            assert stats["peak_rss_bytes"] > 10_000_000
