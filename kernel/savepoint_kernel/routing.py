"""Which thread serves which message of the shell channel.

    client --> shell ROUTER --> Shell channel thread: `Router.route`
                                    |-- EXECUTION      main thread, strictly in order
                                    |-- INTROSPECTION  its own thread, at once
                                    |-- COMM           main loop if it is free, else Comm thread
                                    '-- a subshell     the subshell's thread (ipykernel)
    client --> control ROUTER --> Control thread, at once

No message waits for user code but the next execute.

Threads: `route` runs on the Shell channel thread only (asserted); it looks at the header, and
nothing else, so that it never lags behind. Signatures are checked by the thread that serves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import Enum
from logging import Logger

from ipykernel.thread import SHELL_CHANNEL_THREAD_NAME
from jupyter_client.session import DELIM, Session

from .sockets import Frames


class Lane(Enum):
    """Who serves a message."""

    EXECUTION = "execution"
    INTROSPECTION = "introspection"
    COMM = "comm"


ROUTES: Mapping[str, Lane] = {
    "execute_request": Lane.EXECUTION,
    "complete_request": Lane.INTROSPECTION,
    "inspect_request": Lane.INTROSPECTION,
    "is_complete_request": Lane.INTROSPECTION,
    "history_request": Lane.INTROSPECTION,
    "kernel_info_request": Lane.INTROSPECTION,
    "comm_info_request": Lane.INTROSPECTION,
    "connect_request": Lane.INTROSPECTION,
    "comm_open": Lane.COMM,
    "comm_msg": Lane.COMM,
    "comm_close": Lane.COMM,
}
"""Types not listed here (shutdown on shell, unknown ones) go to `Lane.EXECUTION`, in order."""


class Router:
    """Reads headers and hands messages to lanes.

    Args:
        session: unpacks headers.
        log: told about messages that are none.
        lanes: what to do with a message of each lane; called on the Shell channel thread.
        to_subshell: what to do with a message for a subshell. Comm messages are not among them:
            JupyterLab sends them through a subshell so that they need not wait for the main
            shell, and ipykernel 7.4 sends those of widgets made in a cell back to it. Here they
            never wait.
    """

    def __init__(
        self,
        session: Session,
        log: Logger,
        lanes: Mapping[Lane, Callable[[Frames], None]],
        to_subshell: Callable[[Frames], None],
    ) -> None:
        self._session = session
        self._log = log
        self._lanes = lanes
        self._to_subshell = to_subshell

    def route(self, frames: Frames) -> None:
        """Hand one message on."""
        assert threading.current_thread().name == SHELL_CHANNEL_THREAD_NAME
        try:
            delimiter = next(i for i, f in enumerate(frames) if f.bytes == DELIM)
            header = self._session.unpack(frames[delimiter + 2].bytes)
            lane = ROUTES.get(header["msg_type"], Lane.EXECUTION)
            for_subshell = header.get("subshell_id") is not None
        except Exception:
            self._log.exception("Invalid message on the shell channel")
            return
        if for_subshell and lane is not Lane.COMM:
            self._to_subshell(frames)
        else:
            self._lanes[lane](frames)
