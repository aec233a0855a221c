"""The debugger, by the messages a front end sends."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from .harness import Kernel, Message

CODE = "def add(a, b):\n    c = a + b\n    return c\nadd(2, 3)"


class Front:
    """Speaks the Debug Adapter Protocol to a kernel on its control channel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self._numbers = itertools.count(1)

    def ask(self, command: str, **arguments: Any) -> Message:
        request = {
            "type": "request",
            "seq": next(self._numbers),
            "command": command,
            "arguments": arguments,
        }
        msg_id = self.kernel.send("debug_request", request, channel="control")
        answer = self.kernel.reply(msg_id, channel="control")["content"]
        assert answer["success"], answer
        return answer.get("body", {})

    def attach(self) -> None:
        self.ask("initialize", clientID="test", adapterID="", linesStartAt1=True)
        self.ask("attach")


@pytest.fixture
def front(own_kernel: Kernel) -> Front:
    return Front(own_kernel)


def test_breakpoint_in_a_cell_is_hit_inspected_and_left(front: Front) -> None:
    front.attach()
    path = front.ask("dumpCell", code=CODE)["sourcePath"]
    set_ = front.ask("setBreakpoints", breakpoints=[{"line": 2}], source={"path": path})
    assert set_["breakpoints"][0]["verified"]
    front.ask("configurationDone")

    cell = front.kernel.start(CODE)
    stopped = front.kernel.wait(
        "iopub",
        lambda m: m["msg_type"] == "debug_event" and m["content"]["event"] == "stopped",
    )
    thread = stopped["content"]["body"]["threadId"]
    frame = front.ask("stackTrace", threadId=thread)["stackFrames"][0]
    assert (frame["name"], frame["line"]) == ("add", 2)
    scopes = front.ask("scopes", frameId=frame["id"])["scopes"]
    (local,) = (s["variablesReference"] for s in scopes if s["name"] == "Locals")
    found = front.ask("variables", variablesReference=local)["variables"]
    values = {v["name"]: v["value"] for v in found}
    assert (values["a"], values["b"]) == ("2", "3")
    front.ask("continue", threadId=thread)
    assert front.kernel.finish(cell).value == "5"


def test_debugger_starts_while_a_cell_runs_and_the_cell_can_be_interrupted(front: Front) -> None:
    cell = front.kernel.start("input()")
    front.kernel.prompt(cell)
    front.ask("initialize", clientID="test", adapterID="", linesStartAt1=True)
    front.kernel.interrupt("message")
    assert front.kernel.finish(cell).content["ename"] == "KeyboardInterrupt"


def test_variables_are_shown_without_a_breakpoint(front: Front) -> None:
    front.kernel.ok("answer = 42")
    found = front.ask("inspectVariables")["variables"]
    assert {"name": "answer", "value": "42"}.items() <= next(
        v for v in found if v["name"] == "answer"
    ).items()
