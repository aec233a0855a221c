"""A real kernel process and a client that waits for events, never for time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

Message = dict[str, Any]

PATIENCE = 60.0
"""Seconds after which something that should have happened counts as a failure."""


@dataclass
class Result:
    """A cell that has ended: its reply and all it published."""

    reply: Message
    iopub: list[Message]

    @property
    def content(self) -> Message:
        return self.reply["content"]

    @property
    def savepoint(self) -> Message:
        return self.reply["metadata"]["savepoint"]

    def text(self, name: str = "stdout") -> str:
        return "".join(
            m["content"]["text"]
            for m in self.iopub
            if m["msg_type"] == "stream" and m["content"]["name"] == name
        )

    def of(self, msg_type: str) -> list[Message]:
        return [m for m in self.iopub if m["msg_type"] == msg_type]

    def of_types(self, msg_types: Container[str]) -> list[Message]:
        return [m for m in self.iopub if m["msg_type"] in msg_types]

    @property
    def value(self) -> str:
        """The text of the cell's result."""
        (result,) = self.of("execute_result")
        return result["content"]["data"]["text/plain"]


class Kernel:
    """One kernel with one client."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self._seen: dict[str, list[Message]] = {
            "iopub": [],
            "shell": [],
            "control": [],
            "stdin": [],
        }

    @property
    def pid(self) -> int:
        return self.manager.provisioner.pid

    # -- sending

    def send(
        self,
        msg_type: str,
        content: Message | None = None,
        *,
        channel: str = "shell",
        metadata: Message | None = None,
        subshell_id: str | None = None,
        parent: Message | None = None,
        client: BlockingKernelClient | None = None,
    ) -> str:
        """Send a message; returns its id."""
        client = client or self.client
        msg = client.session.msg(msg_type, content or {}, metadata=metadata, parent=parent)
        if subshell_id is not None:
            msg["header"]["subshell_id"] = subshell_id
        getattr(client, f"{channel}_channel").send(msg)
        return msg["header"]["msg_id"]

    def start(self, code: str, *, metadata: Message | None = None, **content: Any) -> str:
        """Send an execute_request; returns its id."""
        request = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": True,
            "stop_on_error": True,
            **content,
        }
        subshell_id = request.pop("subshell_id", None)
        return self.send("execute_request", request, metadata=metadata, subshell_id=subshell_id)

    # -- waiting

    def wait(
        self, channel: str, wanted: Callable[[Message], bool], timeout: float = PATIENCE
    ) -> Message:
        """Return the first message on ``channel`` that is wanted, now or later; others are kept.

        Raises:
            AssertionError: none came.
        """
        seen = self._seen[channel]
        for i, msg in enumerate(seen):
            if wanted(msg):
                return seen.pop(i)
        deadline = time.monotonic() + timeout
        get = getattr(self.client, f"get_{channel}_msg")
        while (left := deadline - time.monotonic()) > 0:
            try:
                msg = get(timeout=left)
            except Empty:
                break
            if wanted(msg):
                return msg
            seen.append(msg)
        raise AssertionError(
            f"no such message on {channel} within {timeout} s; there were "
            f"{[(m['msg_type'], m['content']) for m in seen[-20:]]}"
        )

    def reply(self, msg_id: str, *, channel: str = "shell", timeout: float = PATIENCE) -> Message:
        """Return the reply to request ``msg_id``."""
        return self.wait(channel, lambda m: parent_id(m) == msg_id, timeout)

    def idle(self, msg_id: str) -> list[Message]:
        """Wait until request ``msg_id`` is done; returns what was published for it, in order."""
        self.wait(
            "iopub",
            lambda m: (
                parent_id(m) == msg_id
                and m["msg_type"] == "status"
                and m["content"]["execution_state"] == "idle"
            ),
        )
        mine = [m for m in self._seen["iopub"] if parent_id(m) == msg_id]
        self._seen["iopub"] = [m for m in self._seen["iopub"] if parent_id(m) != msg_id]
        return mine

    def stream(self, msg_id: str, text: str) -> Message:
        """Wait until a stream message of ``msg_id`` contains ``text``."""
        return self.wait(
            "iopub",
            lambda m: (
                parent_id(m) == msg_id
                and m["msg_type"] == "stream"
                and text in m["content"]["text"]
            ),
        )

    def unclaimed(self, channel: str, msg_ids: Container[str]) -> list[Message]:
        """Return what has come on ``channel`` for these requests and nobody has waited for."""
        return [m for m in self._seen[channel] if parent_id(m) in msg_ids]

    def finish(self, msg_id: str) -> Result:
        """Wait for reply and idle of a cell."""
        return Result(self.reply(msg_id), self.idle(msg_id))

    def run(self, code: str, *, metadata: Message | None = None, **content: Any) -> Result:
        """Run a cell to its end."""
        return self.finish(self.start(code, metadata=metadata, **content))

    def eval(self, expression: str) -> str:
        """Return the repr of an expression's value."""
        result = self.run("", user_expressions={"_value": expression}, silent=True)
        value = result.content["user_expressions"]["_value"]
        assert value["status"] == "ok", value
        return value["data"]["text/plain"]

    def ok(self, code: str, **content: Any) -> Result:
        """Run a cell that must succeed."""
        result = self.run(code, **content)
        assert result.content["status"] == "ok", "\n".join(result.content["traceback"])
        return result

    def prompt(self, msg_id: str) -> Message:
        """Wait for the input_request of cell ``msg_id``."""
        return self.wait("stdin", lambda m: parent_id(m) == msg_id)

    def answer(self, prompt: Message, value: str) -> None:
        """Answer an input_request, naming it as the parent."""
        self.send("input_reply", {"value": value, "status": "ok"}, channel="stdin", parent=prompt)

    # -- acting

    def interrupt(self, how: str = "signal") -> None:
        """Interrupt by SIGINT to the process ("signal") or by control message ("message")."""
        if how == "signal":
            os.kill(self.pid, signal.SIGINT)
        else:
            self.reply(self.send("interrupt_request", channel="control"), channel="control")


def go_back(kernel: Kernel, cell: str, way: str) -> None:
    """Run a cell and take it back: by "undo", or by the "rollback" of a transaction."""
    if way == "undo":
        kernel.ok(cell)
        kernel.ok("%undo")
    else:
        kernel.run(cell, metadata={"savepoint": {"transaction": "rollback_always"}})


def parent_id(msg: Message) -> str | None:
    """Id of the request a message belongs to."""
    return msg["parent_header"].get("msg_id")


class Gate:
    """Holds code in the kernel up, in a blocking read without the GIL, until the test opens it.

    Attributes:
        wait: an expression that blocks the kernel's thread once per `open`.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # For reading too, so that neither side waits for the other to open it.
        self._fd = os.open(path, os.O_RDWR)
        self.wait = f"open({str(path)!r}, 'rb', 0).read(1)"

    def open(self) -> None:
        """Let one waiter through, now or when it comes."""
        os.write(self._fd, b"+")

    def close(self) -> None:
        """Remove the gate; whoever waits goes on."""
        os.close(self._fd)


def _environ_of_a_user() -> dict[str, str]:
    # ipykernel does not capture file descriptors in a process that pytest runs in; it takes this
    # variable, which children inherit, as the sign of one.
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@contextmanager
def start_kernel(
    *arguments: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    argv: list[str] | None = None,
) -> Iterator[Kernel]:
    """Start a kernel of the installed kernelspec, or of ``argv``, and end it afterwards."""
    manager = KernelManager(kernel_name="savepoint")
    if argv is not None:
        manager._kernel_spec = KernelSpec(argv=argv, display_name="under test", language="python")
    manager.start_kernel(
        extra_arguments=list(arguments),
        cwd=str(cwd) if cwd else None,
        env={**_environ_of_a_user(), **(env or {})},
    )
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        client.context.destroy(linger=0) if client.context is not manager.context else None
