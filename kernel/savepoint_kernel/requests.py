"""Control requests for the timeline: what a front end or a service asks without running a cell.

Status and timeline are answered at once, beside a running cell (in turn as well before the
timeline is open, which the first of them or the first cell does). What changes the namespace waits
its turn among the cells: the Control thread queues it, the main thread serves and answers it.

    savepoint_status_request       {}
    savepoint_timeline_request     {count, settled}
    savepoint_checkpoint_request   {name, message, policy}
    savepoint_restore_request      {commit, names} or {undo: N} or {redo: true}
    savepoint_transaction_request  {action, name}

Actions are begin, commit, rollback, and with a name savepoint, release, policy; rollback may have a
name.
A cell's commit is made after its reply; ``settled: true`` waits, as changes do, until it is there.
All fields are optional but ``action``. A reply has ``status`` and, if that is "error", the usual
fields, with the name of an exception of `exceptions`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .exceptions import InvalidRequest

if TYPE_CHECKING:
    from .history.checkout import Restored
    from .history.commands import Commands
    from .history.savepoints import Savepoints
    from .kernel import SavepointKernel

Message = dict[str, Any]


class TimelineRequests:
    """Handlers of the requests.

    Args:
        kernel: sends the replies.
        savepoints: its timeline.
        commands: what may be asked of it.
        queue: has a function called on the main thread, after the cells that came before.
    """

    def __init__(
        self,
        kernel: SavepointKernel,
        savepoints: Savepoints,
        commands: Commands,
        queue: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._kernel = kernel
        self._savepoints = savepoints
        self._commands = commands
        self._queue = queue
        self.handlers: dict[str, Callable[[Any, Any, Message], None]] = {
            "savepoint_status_request": self._at_once(self._status),
            "savepoint_timeline_request": self._timeline_request,
            "savepoint_checkpoint_request": self._in_turn(self._checkpoint),
            "savepoint_restore_request": self._in_turn(self._restore),
            "savepoint_transaction_request": self._in_turn(self._transaction),
        }

    def _at_once(self, answer: Callable[[Message], Message]) -> Callable[[Any, Any, Message], None]:
        in_turn = self._in_turn(answer)

        def handle(stream: Any, ident: Any, parent: Message) -> None:
            if not self._savepoints.decided:
                in_turn(stream, ident, parent)
                return
            self._reply(stream, ident, parent, answer(parent["content"]))

        return handle

    def _in_turn(self, answer: Callable[[Message], Message]) -> Callable[[Any, Any, Message], None]:
        def handle(stream: Any, ident: Any, parent: Message) -> None:
            async def serve() -> None:
                try:
                    content = answer(parent["content"])
                    if self._savepoints.available:
                        self._savepoints.settle()
                except Exception as error:
                    self._kernel.send_error(stream, ident, parent, error)
                else:
                    self._reply(stream, ident, parent, content)

            self._queue(serve)

        return handle

    def _reply(self, stream: Any, ident: Any, parent: Message, content: Message) -> None:
        msg_type = parent["header"]["msg_type"].replace("_request", "_reply")
        self._kernel.session.send(stream, msg_type, {"status": "ok", **content}, parent, ident)

    def _timeline_request(self, stream: Any, ident: Any, parent: Message) -> None:
        settled = parent["content"].get("settled", False)
        answer = self._in_turn if settled else self._at_once
        answer(self._timeline)(stream, ident, parent)

    # -- on the Control thread

    def _status(self, content: Message) -> Message:
        available = self._savepoints.available
        status = self._commands.status() if available else {}
        return {"available": available, **status, "limits": self._kernel.limits.status()}

    def _timeline(self, content: Message) -> Message:
        timeline = self._savepoints.timeline
        count = content.get("count", 0)
        if not isinstance(count, int) or count < 0:
            raise InvalidRequest(f"count must be a number of commits, or 0 for all, not {count!r}")
        return {
            "head": timeline.head.number,
            "branch": timeline.branch,
            "branches": {name: tip.number for name, tip in timeline.log.branches.items()},
            "checkpoints": {name: known.number for name, known in timeline.log.checkpoints.items()},
            "commits": [dataclasses.asdict(commit) for commit in self._commands.log(count)],
        }

    # -- on the main thread

    def _checkpoint(self, content: Message) -> Message:
        commit = self._commands.checkpoint(
            content.get("name"),
            content.get("message", ""),
            content.get("policy", "pickle_or_error"),
        )
        self._savepoints.store.settle()  # the error of a disk is the reply's
        return {"commit": commit.number, "dropped": dict(commit.dropped)}

    def _restore(self, content: Message) -> Message:
        if "undo" in content:
            return _report(self._commands.undo(content["undo"]))
        if content.get("redo"):
            return _report(self._commands.redo())
        wanted = content.get("commit")
        names = content.get("names", ())
        return _report(self._commands.restore(None if wanted is None else str(wanted), names))

    def _transaction(self, content: Message) -> Message:
        action, name = content.get("action"), content.get("name")
        commands = self._commands
        if action == "rollback":
            return _report(commands.rollback(name))
        if action in {"begin", "commit"}:
            getattr(commands, action)()
        elif action in {"savepoint", "release", "policy"} and isinstance(name, str):
            if action == "policy":
                commands.set_policy(name)
            elif action == "release":
                commands.transactions.release(name)
            else:
                commands.savepoint(name)
        else:
            raise InvalidRequest(
                "action must be begin, commit, rollback, or with a name savepoint, release or "
                f"policy; not {action!r} with the name {name!r}"
            )
        return {"policy": self._savepoints.transaction}


def _report(restored: Restored) -> Message:
    return {
        "commit": restored.commit.number,
        "changed": list(restored.changed),
        "removed": list(restored.removed),
        "unrestorable": dict(restored.unrestorable),
        "recreated": list(restored.recreated),
    }
