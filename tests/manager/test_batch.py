from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from savepoint_manager.batch import MASK, NotebookRunner
from savepoint_manager.exceptions import AnswersError, NoAnswerError

from .harness import KERNEL, errors, notebook, read, stdout, texts

ASK = "name = input('Name? '); print('Hello', name)"


def run(nb: NotebookNode, **options: Any) -> NotebookNode:
    options.setdefault("kernel_name", KERNEL)
    return NotebookRunner(nb, **options).execute()


def test_input_is_answered_from_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_text("Ann\n\nBjörk ✓\n", encoding="utf-8")
    nb = run(notebook(ASK, "print(repr(input()))", ASK), answers=str(path))
    assert texts(nb) == ["Name? Ann\nHello Ann\n", "\n''\n", "Name? Björk ✓\nHello Björk ✓\n"]


def test_input_is_answered_by_prompt() -> None:
    nb = run(
        notebook("print(input('Number? '), input('Number? '))", ASK),
        answers={"Number": ["1", "2"], "Name": "Ann"},
    )
    assert texts(nb)[0].endswith("1 2\n")
    assert texts(nb)[1].endswith("Hello Ann\n")


def test_one_runner_can_run_twice_with_the_same_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_text("Ann\n")
    runner = NotebookRunner(notebook(ASK), answers=path, kernel_name=KERNEL)
    for _ in range(2):
        assert texts(runner.execute()) == ["Name? Ann\nHello Ann\n"]


def test_password_is_used_but_not_shown() -> None:
    asked: list[tuple[str, bool]] = []

    def answer(prompt: str, password: bool) -> str:
        asked.append((prompt, password))
        return "secret"

    nb = run(notebook("from getpass import getpass\nprint(len(getpass('Key: ')))"), answers=answer)
    assert asked == [("Key: ", True)]
    assert texts(nb) == [f"Key: {MASK}\n6\n"]
    assert "secret" not in str(nb)


def test_many_prompts_stay_in_order_with_what_is_printed_between() -> None:
    code = "for i in range(50):\n    print('before', i)\n    print('after', input(f'Q{i}? '))"
    nb = run(notebook(code), answers=lambda prompt, password: prompt.strip("Q? "))
    expected = "".join(f"before {i}\nQ{i}? {i}\nafter {i}\n" for i in range(50))
    assert texts(nb) == [expected]


def test_prompts_can_be_kept_out_of_the_outputs() -> None:
    nb = run(notebook(ASK), answers={"Name": "Ann"}, echo_answers=False)
    assert texts(nb) == ["Hello Ann\n"]


def test_prompt_after_clear_output_with_wait_replaces_the_output() -> None:
    code = (
        "from IPython.display import clear_output\n"
        "print('old')\nclear_output(wait=True)\nprint(input('Q? '))"
    )
    assert texts(run(notebook(code), answers={"Q": "A"})) == ["Q? A\nA\n"]


def test_pieces_of_a_stream_become_one_output() -> None:
    code = "import sys\nfor i in range(3):\n    print(i, flush=True)\nprint('e', file=sys.stderr)"
    (cell,) = run(notebook(code)).cells
    assert [(o.name, o.text) for o in cell.outputs] == [("stdout", "0\n1\n2\n"), ("stderr", "e\n")]


def test_async_answer_function_may_take_its_time() -> None:
    async def answer(prompt: str, password: bool) -> str:
        await asyncio.sleep(0)
        return "Ann"

    assert texts(run(notebook(ASK), answers=answer)) == ["Name? Ann\nHello Ann\n"]


def test_missing_answer_ends_the_run_with_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "answers.txt"
    path.write_text("Ann\n")
    nb = notebook("# # Title", ASK, "print('asking')\ninput('More? ')", "print('never')")
    output = tmp_path / "out" / "result.ipynb"
    with pytest.raises(NoAnswerError) as caught:
        run(nb, answers=path, output_path=str(output))
    error = caught.value
    assert (error.cell_index, error.execution_count, error.prompt) == (2, 2, "More? ")
    assert not error.password
    for part in ("In [2]", "print('asking') ...", "'More? '", str(path), "question 2"):
        assert part in str(error)
    written = read(output)
    assert texts(written) == ["", "Name? Ann\nHello Ann\n", "asking\n", ""]
    assert errors(written.cells[2]) == ["KeyboardInterrupt"]


def test_missing_password_is_said_to_be_one() -> None:
    nb = notebook("import getpass; getpass.getpass('Key: ')")
    with pytest.raises(NoAnswerError, match="asked for a password") as caught:
        run(nb, answers={})
    assert caught.value.password


def test_missing_answer_fails_the_run_even_if_the_cell_copes() -> None:
    nb = notebook("try:\n    input('Q? ')\nexcept KeyboardInterrupt:\n    print('coped')")
    with pytest.raises(NoAnswerError):
        run(nb, answers={})
    assert texts(nb) == ["coped\n"]


def test_missing_answer_fails_the_run_even_if_errors_are_allowed() -> None:
    with pytest.raises(NoAnswerError):
        run(notebook("input('Q? ')"), answers={}, allow_errors=True)


def test_cell_that_asks_again_and_again_does_not_hang_the_run() -> None:
    code = (
        "while True:\n    try:\n        input('Q? ')\n    except KeyboardInterrupt:\n        pass"
    )
    with pytest.raises(NoAnswerError):
        run(notebook(code), answers={}, interrupt_grace=1)


def test_error_in_the_answer_function_ends_the_run() -> None:
    def answer(prompt: str, password: bool) -> str:
        raise LookupError("no such secret")

    nb = notebook("print('asking')\ninput('Q? ')")
    with pytest.raises(LookupError, match="no such secret"):
        run(nb, answers=answer)
    assert texts(nb) == ["asking\n"]


def test_unusable_answers_start_no_kernel(tmp_path: Path) -> None:
    started: list[NotebookNode] = []
    with pytest.raises(AnswersError):
        run(
            notebook("1"),
            answers=tmp_path / "missing.txt",
            on_notebook_start=lambda notebook: started.append(notebook),
        )
    assert started == []


def test_without_answers_input_fails_as_in_nbclient() -> None:
    with pytest.raises(CellExecutionError, match="StdinNotImplementedError"):
        run(notebook("input('Q? ')"))


def test_failed_run_writes_the_outputs_so_far(tmp_path: Path) -> None:
    output = tmp_path / "result.ipynb"
    with pytest.raises(CellExecutionError):
        run(notebook("print(1)", "1 / 0", "print(2)"), output_path=str(output))
    written = read(output)
    assert texts(written) == ["1\n", "", ""]
    assert errors(written.cells[1]) == ["ZeroDivisionError"]
    assert [path.name for path in tmp_path.iterdir()] == ["result.ipynb"]


def test_dead_kernel_leaves_the_outputs_so_far(tmp_path: Path) -> None:
    output = tmp_path / "result.ipynb"
    # By the time the answer is back, what was printed before it is out of the process.
    code = "import os\nprint('last words')\ninput('Q? ')\nos._exit(1)"
    with pytest.raises(DeadKernelError):
        run(notebook("print(1)", code), answers={"Q": "A"}, output_path=str(output))
    assert texts(read(output)) == ["1\n", "last words\nQ? A\n"]


def test_widget_state_is_written_also_after_a_failure(tmp_path: Path) -> None:
    output = tmp_path / "result.ipynb"
    with pytest.raises(CellExecutionError):
        run(notebook("import ipywidgets\nipywidgets.Text('x')", "1 / 0"), output_path=str(output))
    (state,) = read(output).metadata.widgets.values()
    assert "TextModel" in {model["model_name"] for model in state["state"].values()}


@pytest.mark.skipif(KERNEL != "savepoint", reason="only Savepoint sends statistics")
def test_reply_metadata_is_kept_for_good_and_failed_cells() -> None:
    nb = notebook("1", "1 / 0")
    with pytest.raises(CellExecutionError):
        run(nb)
    said = [cell.metadata["savepoint"] for cell in nb.cells]
    assert [s["failure_kind"] for s in said] == ["none", "exception"]
    assert all(s["stats"]["wall_ms"] > 0 for s in said)


@asynccontextmanager
async def running_kernel() -> AsyncIterator[AsyncKernelManager]:
    km = AsyncKernelManager(kernel_name=KERNEL)
    await km.start_kernel()
    try:
        yield km
    finally:
        await km.shutdown_kernel(now=True)
        await km.cleanup_resources()


def test_kernel_of_somebody_else_survives_a_missing_answer() -> None:
    async def two_runs() -> NotebookNode:
        async with running_kernel() as km:
            first = NotebookRunner(notebook("x = 42", "input('Q? ')"), km=km, answers={})
            with pytest.raises(NoAnswerError):
                await first.async_execute()
            assert first.kc is not None
            first.kc.stop_channels()
            second = NotebookRunner(notebook("print(x)"), km=km)
            nb = await second.async_execute()
            assert second.kc is not None
            second.kc.stop_channels()
            return nb

    assert texts(asyncio.run(two_runs())) == ["42\n"]


def test_single_cells_are_answered_too() -> None:
    runner = NotebookRunner(notebook(ASK), answers={"Name": "Ann"}, kernel_name=KERNEL)
    with runner.setup_kernel():
        cell = runner.execute_cell(runner.nb.cells[0], 0)
    assert stdout(cell) == "Name? Ann\nHello Ann\n"
