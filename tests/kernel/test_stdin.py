"""input() and getpass(): requests on the stdin channel, and which reply answers which."""

from __future__ import annotations

from typing import Any

import pytest

from .harness import PATIENCE, Kernel, Message, parent_id

BOTH_WAYS = pytest.mark.parametrize("how", ["signal", "message"])

TWO_PROMPTS = """
import threading
answers = {}
def ask(name):
    answers[name] = input(name)
threads = [threading.Thread(target=ask, args=(name,)) for name in ("first", "second")]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def prompt_saying(kernel: Kernel, cell: str, text: str) -> Message:
    """Wait for the input_request of ``cell`` with this prompt."""
    return kernel.wait("stdin", lambda m: parent_id(m) == cell and m["content"]["prompt"] == text)


def named(name: str) -> Message:
    """A parent message with this id, which nobody sent."""
    return {"header": {"msg_id": name, "msg_type": "input_request"}}


# -- the round trip ------------------------------------------------------------------------------


def test_reply_that_names_its_request_is_the_value_of_input(kernel):
    cell = kernel.start("input('name: ')")
    prompt = kernel.prompt(cell)
    assert prompt["msg_type"] == "input_request"
    assert prompt["content"] == {"prompt": "name: ", "password": False}
    kernel.answer(prompt, "Ada")
    assert kernel.finish(cell).value == "'Ada'"


def test_reply_without_a_parent_is_the_value_of_input(kernel):
    """What jupyter_client's own input() sends, so console and nbclient."""
    cell = kernel.start("input()")
    kernel.prompt(cell)
    kernel.client.input("Ada")
    assert kernel.finish(cell).value == "'Ada'"


@pytest.mark.parametrize("name_parent", [True, False])
def test_getpass_asks_not_to_echo(kernel, name_parent):
    cell = kernel.start("import getpass\ngetpass.getpass('secret: ')")
    prompt = kernel.prompt(cell)
    assert prompt["content"] == {"prompt": "secret: ", "password": True}
    if name_parent:
        kernel.answer(prompt, "x")
    else:
        kernel.client.input("x")
    assert kernel.finish(cell).value == "'x'"


@pytest.mark.parametrize("answer", ["", "two\nlines", "  spaces ", "äöü 🙂", "\x04 and more"])
def test_reply_arrives_as_it_was_sent(kernel, answer):
    cell = kernel.start("input()")
    kernel.answer(kernel.prompt(cell), answer)
    assert kernel.finish(cell).value == repr(answer)


def test_prompt_may_be_any_object(kernel):
    cell = kernel.start("input(42)")
    prompt = kernel.prompt(cell)
    assert prompt["content"]["prompt"] == "42"
    kernel.answer(prompt, "")
    assert kernel.finish(cell).content["status"] == "ok"


def test_several_prompts_of_one_cell_come_one_after_the_other(kernel):
    cell = kernel.start("[input(f'{n}') for n in range(3)]")
    for number in range(3):
        kernel.answer(prompt_saying(kernel, cell, str(number)), f"answer {number}")
    assert kernel.finish(cell).value == "['answer 0', 'answer 1', 'answer 2']"


def test_input_in_an_async_cell(kernel):
    cell = kernel.start("import asyncio\nawait asyncio.sleep(0)\ninput()")
    kernel.answer(kernel.prompt(cell), "yes")
    assert kernel.finish(cell).value == "'yes'"


def test_end_of_file(kernel):
    cell = kernel.start("input()")
    kernel.answer(kernel.prompt(cell), "\x04")
    result = kernel.finish(cell)
    assert result.content["ename"] == "EOFError"
    assert result.savepoint["failure_kind"] == "exception"


@pytest.mark.parametrize("ask", ["input()", "__import__('getpass').getpass()"])
def test_front_end_that_cannot_ask_is_not_asked(kernel, ask):
    result = kernel.run(ask, allow_stdin=False)
    assert result.content["ename"] == "StdinNotImplementedError"
    assert kernel.unclaimed("stdin", [result.reply["parent_header"]["msg_id"]]) == []


@pytest.mark.parametrize("write", ["print('before', end='')", "os.write(1, b'before')"])
def test_output_before_the_prompt_is_published_before_it(kernel, write):
    cell = kernel.start(f"import os\n{write}\ninput()")
    prompt = kernel.prompt(cell)
    output = kernel.stream(cell, "before")
    assert output["header"]["date"] <= prompt["header"]["date"]
    kernel.answer(prompt, "")
    assert kernel.finish(cell).content["status"] == "ok"


def test_prompt_goes_to_the_client_whose_cell_asks(kernel):
    other = kernel.manager.blocking_client()
    other.start_channels(iopub=False, hb=False, control=False)
    try:
        content: dict[str, Any] = {"code": "answer = input()", "allow_stdin": True}
        cell = kernel.send("execute_request", content, client=other)
        prompt = other.get_stdin_msg(timeout=PATIENCE)
        assert parent_id(prompt) == cell
        assert kernel.unclaimed("stdin", [cell]) == []
        kernel.send("input_reply", {"value": "other"}, channel="stdin", parent=prompt, client=other)
        assert other.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "ok"
    finally:
        other.stop_channels()
    assert kernel.ok("answer").value == "'other'"


def test_prompt_waits_for_a_client_that_is_not_yet_connected(kernel):
    """A front end's sockets connect one after the other; a cell may ask before stdin is there."""
    late = kernel.manager.blocking_client()
    late.start_channels(iopub=False, stdin=False, hb=False, control=False)
    try:
        content = {"code": "print('asks', flush=True)\ninput()", "allow_stdin": True}
        cell = kernel.send("execute_request", content, client=late)
        kernel.stream(cell, "asks")
        late.stdin_channel.start()
        prompt = late.get_stdin_msg(timeout=PATIENCE)
        assert parent_id(prompt) == cell
        kernel.send("input_reply", {"value": "here"}, channel="stdin", parent=prompt, client=late)
        assert late.get_shell_msg(timeout=PATIENCE)["content"]["status"] == "ok"
    finally:
        late.stop_channels()


# -- which reply answers which prompt ------------------------------------------------------------


def test_reply_to_something_else_is_ignored(kernel):
    cell = kernel.start("input()")
    prompt = kernel.prompt(cell)
    kernel.answer(named("of some other prompt"), "stale")
    kernel.answer(prompt, "right")
    assert kernel.finish(cell).value == "'right'"


def test_reply_to_an_answered_prompt_does_not_answer_the_next(kernel):
    cell = kernel.start("input(), input()")
    first = kernel.prompt(cell)
    kernel.answer(first, "1")
    kernel.answer(first, "1 again")
    kernel.answer(kernel.prompt(cell), "2")
    assert kernel.finish(cell).value == "('1', '2')"


@pytest.mark.parametrize("when", ["before the next asks", "while the next asks"])
def test_reply_to_an_interrupted_prompt_does_not_answer_the_next(kernel, when):
    interrupted = kernel.start("input()")
    stale = kernel.prompt(interrupted)
    kernel.interrupt()
    kernel.finish(interrupted)
    if when == "before the next asks":
        kernel.answer(stale, "stale")
    cell = kernel.start("input()")
    prompt = kernel.prompt(cell)
    if when == "while the next asks":
        kernel.answer(stale, "stale")
    kernel.answer(prompt, "fresh")
    assert kernel.finish(cell).value == "'fresh'"


@pytest.mark.parametrize("content", [{}, {"value": None}, {"value": 5}])
def test_malformed_reply_leaves_the_prompt_open(kernel, content):
    cell = kernel.start("input()")
    prompt = kernel.prompt(cell)
    kernel.send("input_reply", content, channel="stdin", parent=prompt)
    kernel.answer(prompt, "right")
    assert kernel.finish(cell).value == "'right'"


def test_two_open_prompts_are_answered_by_name_in_any_order(kernel):
    cell = kernel.start(TWO_PROMPTS)
    first, second = (prompt_saying(kernel, cell, name) for name in ("first", "second"))
    kernel.answer(second, "2")
    kernel.answer(first, "1")
    assert kernel.finish(cell).content["status"] == "ok"
    assert kernel.eval("(answers['first'], answers['second'])") == "('1', '2')"


def test_reply_without_a_parent_answers_none_of_two_open_prompts(kernel):
    cell = kernel.start(TWO_PROMPTS)
    first, second = (prompt_saying(kernel, cell, name) for name in ("first", "second"))
    kernel.client.input("whose?")
    kernel.answer(first, "1")
    kernel.answer(second, "2")
    assert kernel.finish(cell).content["status"] == "ok"
    assert kernel.eval("(answers['first'], answers['second'])") == "('1', '2')"


# -- the end of a prompt -------------------------------------------------------------------------


@BOTH_WAYS
def test_interrupt_ends_a_prompt_and_the_next_one_works(kernel, how):
    cell = kernel.start("input()")
    kernel.prompt(cell)
    kernel.interrupt(how)
    result = kernel.finish(cell)
    assert (result.content["ename"], result.content["evalue"]) == (
        "KeyboardInterrupt",
        "Interrupted by user",
    )
    cell = kernel.start("input()")
    kernel.prompt(cell)
    kernel.client.input("after")
    assert kernel.finish(cell).value == "'after'"


# -- who has replaced input, and who calls it when -----------------------------------------------


def test_input_rebound_in_builtins_stays_so_in_later_cells(own_kernel):
    own_kernel.ok("import builtins\nbuiltins.input = lambda prompt='': 'mine'")
    assert own_kernel.ok("input()").value == "'mine'"
    assert own_kernel.ok("builtins.input()").value == "'mine'"


def test_input_rebound_in_the_notebook_stays_so_in_later_cells(kernel):
    kernel.ok("input = lambda prompt='': 'mine'")
    assert kernel.ok("input()").value == "'mine'"
    kernel.ok("del input")
    cell = kernel.start("input()")
    kernel.answer(kernel.prompt(cell), "asked")
    assert kernel.finish(cell).value == "'asked'"


def test_getpass_rebound_stays_so_in_later_cells(own_kernel):
    own_kernel.ok("import getpass\ngetpass.getpass = lambda prompt='': 'mine'")
    assert own_kernel.ok("getpass.getpass()").value == "'mine'"


def test_input_kept_under_another_name_works_in_later_cells(kernel):
    kernel.ok("from builtins import input as ask\nfrom getpass import getpass")
    cell = kernel.start("ask('a'), getpass('b')")
    kernel.answer(prompt_saying(kernel, cell, "a"), "1")
    kernel.answer(prompt_saying(kernel, cell, "b"), "2")
    assert kernel.finish(cell).value == "('1', '2')"


LATE_THREAD = """
import threading
go, answers = threading.Event(), []
def ask():
    go.wait()
    answers.append(input('late: '))
thread = threading.Thread(target=ask)
thread.start()
"""


def test_thread_may_ask_when_its_cell_has_ended(kernel):
    cell = kernel.start(LATE_THREAD)
    assert kernel.finish(cell).content["status"] == "ok"
    kernel.ok("go.set()")
    prompt = prompt_saying(kernel, cell, "late: ")
    assert kernel.ok("6 * 7").value == "42"  # cells run while it is asked
    kernel.answer(prompt, "here")
    assert kernel.ok("thread.join()\nanswers").value == "['here']"


def test_thread_may_ask_while_a_cell_runs_that_must_not(kernel):
    """Whether a front end can be asked is a matter of the cell that started the thread."""
    cell = kernel.start(LATE_THREAD)
    assert kernel.finish(cell).content["status"] == "ok"
    kernel.ok("go.set()", allow_stdin=False)
    waiting = kernel.start("thread.join()\nanswers", allow_stdin=False)
    kernel.answer(prompt_saying(kernel, cell, "late: "), "here")
    assert kernel.finish(waiting).value == "['here']"


def test_late_prompt_and_prompt_of_the_running_cell_are_told_apart(kernel):
    cell = kernel.start(LATE_THREAD)
    kernel.finish(cell)
    asking = kernel.start("go.set()\ninput('now: ')")
    now = prompt_saying(kernel, asking, "now: ")
    late = prompt_saying(kernel, cell, "late: ")
    kernel.answer(late, "late answer")
    kernel.answer(now, "now answer")
    assert kernel.finish(asking).value == "'now answer'"
    assert kernel.ok("thread.join()\nanswers").value == "['late answer']"
