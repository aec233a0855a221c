"""The stdin channel: `input()` and `getpass()` as requests to the front end.

The thread that asks waits on a queue of its own, where SIGINT ends the wait at once; the channel
thread, which owns reading the socket, puts the reply there. Replies are matched to their request:
stock ipykernel takes any signed message, so a late answer to one prompt answers the next.

A client may not be there when it is asked: its stdin socket connects later than its shell socket,
or connects anew. zmq would drop the request, and the cell would wait for ever. So it is sent again
while the prompt is open.

Threads: `ask` any thread that runs user code, at most one prompt each; `deliver` and `_offer` the
channel thread; ``_lock`` guards the table of open prompts.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from logging import Logger
from typing import Any

import zmq
from ipykernel.jsonutil import json_clean
from jupyter_client.session import Session

from .sockets import Frames, SharedSocket

EOF = "\x04"
"""A reply of this one character means end of file, as in every Jupyter front end."""


OFFER_AGAIN = 0.05
"""Seconds until a request is sent again to a client that is not connected."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    request_id: str
    frames: Frames
    answers: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)


class StdinBridge:
    """Open input requests and the replies to them.

    Args:
        session: signs requests and checks replies.
        log: told about replies nobody waits for.
    """

    def __init__(self, session: Session, log: Logger) -> None:
        self._session = session
        self._log = log
        self._lock = threading.Lock()
        self._open: dict[int, _Prompt] = {}
        self._socket: SharedSocket | None = None

    def use(self, socket: SharedSocket) -> None:
        """Take the bound stdin socket. Before the first `ask`."""
        socket.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.on_unroutable = self._offer_later
        self._socket = socket

    def ask(self, prompt: str, password: bool, parent: dict[str, Any], ident: Any) -> str:
        """Send an input_request and wait for its reply.

        Args:
            prompt: shown to the user.
            password: True if the front end must not echo.
            parent: the request whose cell asks.
            ident: routing prefix of that request's client.

        Raises:
            EOFError: the front end sent end of file.
            KeyboardInterrupt: the kernel was interrupted; a later reply is ignored.
        """
        assert self._socket is not None
        content = json_clean({"prompt": prompt, "password": password})
        request = self._session.msg("input_request", content, parent=parent)
        opened = _Prompt(request["msg_id"], self._session.serialize(request, ident))
        # Keyed by thread: if an interrupt skips `forget` below, the thread's next prompt, or the
        # end of the cell, takes its place.
        with self._lock:
            self._open[threading.get_ident()] = opened
        try:
            self._socket.send_multipart(opened.frames)
            answer = opened.answers.get()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted by user") from None
        finally:
            self.forget()
        if answer == EOF:
            raise EOFError("the front end sent end of file")
        return answer

    def forget(self) -> None:
        """Close the prompt of the calling thread, if it has one open."""
        with self._lock:
            self._open.pop(threading.get_ident(), None)

    def _offer_later(self, frames: Frames) -> None:
        assert self._socket is not None
        loop = self._socket.io_loop
        loop.add_callback(loop.call_later, OFFER_AGAIN, self._offer, frames)

    def _offer(self, frames: Frames) -> None:
        """Send a request again if its prompt is still open."""
        assert self._socket is not None
        with self._lock:
            still_open = any(prompt.frames is frames for prompt in self._open.values())
        if still_open:
            self._socket.send_multipart(frames)

    def deliver(self, frames: Frames) -> None:
        """Hand an input_reply to whoever waits for it."""
        try:
            _, parts = self._session.feed_identities(frames, copy=False)
            reply = self._session.deserialize(parts, copy=False)
            answer = reply["content"]["value"]
            if not isinstance(answer, str):
                raise TypeError(f"the value of an input_reply must be a string, not {answer!r}")
        except Exception:
            self._log.exception("Invalid message on the stdin channel; the prompt stays open")
            return
        request_id = reply["parent_header"].get("msg_id")
        with self._lock:
            prompts = list(self._open.values())
        if request_id is not None:
            prompts = [prompt for prompt in prompts if prompt.request_id == request_id]
        # jupyter_client's kc.input() names no parent; with one open prompt it is clear.
        if len(prompts) == 1:
            prompts[0].answers.put(answer)
        else:
            self._log.warning(
                "An input_reply was ignored: it names request %s; %d prompts are open",
                request_id,
                len(self._open),
            )
