"""What a running cell says, as typed values: the messages of the Jupyter protocol, one class each.

`status` and `execute_input` are left out: the iterator itself says when a cell begins and ends, and
the source is the caller's. Whatever else a kernel sends, comm messages for example, is an `Other`.

Threads: any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from savepoint_kernel.protocol import METADATA_KEY, FailureKind

Message = dict[str, Any]

NO_EVENTS = frozenset({"status", "execute_input", "iopub_welcome", "shutdown_reply"})
"""Messages on iopub that tell a client nothing it does not know otherwise."""


@dataclass(frozen=True, slots=True)
class Output:
    """Text on stdout or stderr.

    Attributes:
        name: "stdout" or "stderr".
        text: as printed.
    """

    type: ClassVar[str] = "output"
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Display:
    """Something shown, or shown anew.

    Attributes:
        data: representations by MIME type.
        metadata: about them.
        display_id: its name; None if it can't be updated.
        update: True if it takes the place of what was shown under ``display_id``.
    """

    type: ClassVar[str] = "display"
    data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    display_id: str | None
    update: bool


@dataclass(frozen=True, slots=True)
class Result:
    """The value of the cell.

    Attributes:
        data: representations by MIME type.
        metadata: about them.
        execution_count: number of the cell.
    """

    type: ClassVar[str] = "result"
    data: Mapping[str, Any]
    metadata: Mapping[str, Any]
    execution_count: int | None


@dataclass(frozen=True, slots=True)
class ClearOutput:
    """The output so far is to be removed.

    Attributes:
        wait: not before there is something new.
    """

    type: ClassVar[str] = "clear_output"
    wait: bool


@dataclass(frozen=True, slots=True)
class InputRequired:
    """The cell waits for `Session.reply`.

    Attributes:
        prompt: what it asks.
        password: True if the answer should not be shown.
        request: the message, which an answer names.
    """

    type: ClassVar[str] = "input_required"
    prompt: str
    password: bool
    request: Message = field(repr=False)


@dataclass(frozen=True, slots=True)
class Error:
    """The cell failed, or something in it that is shown like that.

    Attributes:
        ename: name of the exception.
        evalue: its text.
        traceback: its lines, with ANSI colors.
        failure_kind: why the cell ended.
    """

    type: ClassVar[str] = "error"
    ename: str
    evalue: str
    traceback: tuple[str, ...]
    failure_kind: FailureKind


@dataclass(frozen=True, slots=True)
class Done:
    """The cell has ended; always the last event.

    Attributes:
        status: "ok", "error", or "aborted" if it was not run.
        execution_count: number of the cell.
        failure_kind: why it ended.
        stats: what it cost; empty if the kernel does not say.
        commit: number of the commit that holds it; None if there is none.
        transaction: its policy and what became of it; empty if the kernel does not say.
    """

    type: ClassVar[str] = "done"
    status: str
    execution_count: int | None
    failure_kind: FailureKind
    stats: Mapping[str, Any]
    commit: int | None
    transaction: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Other:
    """A message this client has no word for.

    Attributes:
        msg_type: its type.
        content: its content.
        metadata: its metadata.
        buffers: its binary parts.
    """

    type: ClassVar[str] = "other"
    msg_type: str
    content: Mapping[str, Any]
    metadata: Mapping[str, Any]
    buffers: tuple[bytes, ...]


Event = Output | Display | Result | ClearOutput | InputRequired | Error | Done | Other


def event_of(message: Message) -> Event:
    """Return what a message on iopub or stdin says."""
    content = message["content"]
    match message["header"]["msg_type"]:
        case "stream":
            return Output(content["name"], content["text"])
        case "display_data" | "update_display_data" as msg_type:
            display_id = content.get("transient", {}).get("display_id")
            update = msg_type == "update_display_data"
            return Display(content["data"], content.get("metadata", {}), display_id, update)
        case "execute_result":
            return Result(
                content["data"], content.get("metadata", {}), content.get("execution_count")
            )
        case "clear_output":
            return ClearOutput(content.get("wait", False))
        case "input_request":
            return InputRequired(content["prompt"], content.get("password", False), message)
        case "error":
            return error_of(content, None)
        case msg_type:
            buffers = tuple(bytes(buffer) for buffer in message.get("buffers", ()))
            return Other(msg_type, content, message["metadata"], buffers)


def error_of(content: Message, reply: Message | None) -> Error:
    """Return the error in ``content``.

    Args:
        content: of an error message, or of a reply.
        reply: of its cell, which knows why the cell ended; None if there is none yet.
    """
    ename, evalue = content.get("ename", ""), content.get("evalue", "")
    ended_by_it = reply is not None and (
        (reply["content"].get("ename"), reply["content"].get("evalue")) == (ename, evalue)
    )
    kind = failure_kind(reply) if ended_by_it and reply is not None else _kind_named(ename)
    return Error(ename, evalue, tuple(content.get("traceback", ())), kind)


def done_of(reply: Message) -> Done:
    """Return what an execute_reply says."""
    content, ours = reply["content"], _ours(reply)
    return Done(
        status=content["status"],
        execution_count=content.get("execution_count"),
        failure_kind=failure_kind(reply),
        stats=ours.get("stats", {}),
        commit=ours.get("commit"),
        transaction=ours.get("transaction", {}),
    )


def failure_kind(reply: Message) -> FailureKind:
    """Return why the cell of an execute_reply ended."""
    said = _ours(reply).get("failure_kind")
    if said is not None:
        return FailureKind(said)
    content = reply["content"]
    return FailureKind.NONE if content["status"] == "ok" else _kind_named(content.get("ename", ""))


def _ours(reply: Message) -> Message:
    ours: Message = reply["metadata"].get(METADATA_KEY, {})
    return ours


def _kind_named(ename: str) -> FailureKind:
    kinds = {
        "ExecutionTimeout": FailureKind.TIMEOUT,
        "KeyboardInterrupt": FailureKind.INTERRUPT,
    }
    return kinds.get(ename, FailureKind.EXCEPTION)
