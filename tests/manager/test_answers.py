from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from savepoint_manager.answers import Answers, open_answers
from savepoint_manager.exceptions import AnswersError


def ask(answers: Answers, *prompts: str) -> list[str | None]:
    async def dialogue() -> list[str | None]:
        return [await answers.answer(prompt, False) for prompt in prompts]

    return asyncio.run(dialogue())


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_text_file_answers_in_order_whatever_is_asked(tmp_path: Path) -> None:
    answers = open_answers(write(tmp_path / "a.txt", "one\nzwei ≥ 2\n"))
    assert ask(answers, "x", "x", "x") == ["one", "zwei ≥ 2", None]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a\n\nb", ["a", "", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\fb\u2028c\n", ["a\fb\u2028c"]),
        ("\ufeffa\n", ["a"]),
    ],
    ids=["empty file", "empty line", "no last newline", "Windows", "odd separators", "BOM"],
)
def test_each_line_is_one_answer(tmp_path: Path, text: str, lines: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    answers = open_answers(str(path))
    assert ask(answers, *"?" * (len(lines) + 1)) == [*lines, None]


def test_way_out_names_the_file_and_counts_its_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\n")
    assert open_answers(path).way_out == (
        f"Add a line to {path}: this was question 2 and it holds 1 answer."
    )


def test_mapping_answers_by_the_longest_fitting_piece_of_the_prompt() -> None:
    answers = open_answers({"name": "Ann", "user name": "ann"})
    assert ask(answers, "Your name? ", "Your user name? ", "Age? ") == ["Ann", "ann", None]


def test_single_answer_is_given_every_time_and_a_list_once() -> None:
    answers = open_answers({"again": "yes", "number": ["1", "2"]})
    assert ask(answers, *["again?"] * 3) == ["yes"] * 3
    assert ask(answers, *["number?"] * 3) == ["1", "2", None]


def test_used_up_list_gives_way_to_a_shorter_piece() -> None:
    answers = open_answers({"number": ["1"], "": "anything"})
    assert ask(answers, "number?", "number?") == ["1", "anything"]


def test_json_file_is_a_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"name": "Ann", "number": ["1", "2"]}')
    assert ask(open_answers(path), "name?", "number?", "number?") == ["Ann", "1", "2"]


def test_runs_do_not_share_a_list_of_answers() -> None:
    source = {"number": ["1"]}
    for _ in range(2):
        assert ask(open_answers(source), "number?") == ["1"]


def test_function_gets_the_prompt_and_whether_it_is_a_password() -> None:
    answers = open_answers(lambda prompt, password: f"{prompt}/{password}")
    assert asyncio.run(answers.answer("Pw", True)) == "Pw/True"


def test_async_function_is_awaited() -> None:
    async def answer(prompt: str, password: bool) -> str:
        await asyncio.sleep(0)
        return prompt.upper()

    assert ask(open_answers(answer), "name") == ["NAME"]


def test_function_that_returns_something_else_is_an_error() -> None:
    with pytest.raises(AnswersError, match="returned 42 for the prompt 'Age'"):
        ask(open_answers(lambda prompt, password: 42), "Age")  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not valid JSON"),
        ("a.json", '["a"]', "must hold an object"),
        ("a.json", '{"age": 42}', "the answer to 'age' must be a string"),
        ("a.json", '{"age": ["1", null]}', "the answer to 'age' must be a string"),
    ],
)
def test_unusable_file_is_a_named_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(AnswersError, match=message) as caught:
        open_answers(write(tmp_path / name, text))
    assert str(tmp_path / name) in str(caught.value)


def test_missing_and_binary_files_are_named_errors(tmp_path: Path) -> None:
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.txt", binary):
        with pytest.raises(AnswersError, match="Can't read the answers"):
            open_answers(path)
