"""The application: what a kernel does before it answers."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest
import zmq

from savepoint_kernel import app
from savepoint_kernel.app import SavepointKernelApp


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found


def bind(port: int) -> int:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as channel:
        kernel_app = SavepointKernelApp(transport="tcp", ip="127.0.0.1")
        return kernel_app._bind_socket(channel, port)


def test_kernel_waits_for_a_port_that_is_taken_for_a_moment(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = taken.getsockname()[1]
    monkeypatch.setattr(app.time, "sleep", lambda seconds: taken.close())
    assert bind(port) == port


def test_kernel_does_not_wait_for_ever(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_PORT_PATIENCE", 0.05)
    with pytest.raises(zmq.ZMQError) as caught:
        bind(taken.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE
