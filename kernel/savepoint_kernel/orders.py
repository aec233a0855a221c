"""Orders: what a kernel of the pool is told when it is handed out, and how the pool talks.

    front end ── pool's socket ── daemon ── socket pair ── standby
    (provisioner, shim)              └───── socket pair ── zygote

All of them are SOCK_SEQPACKET: a message arrives whole, with the descriptors that belong to it, or
not at all. The kernel's limit on the size of one (212 992 bytes by default) is thereby one on
orders; an environment that does not fit starts a kernel of its own. Messages are JSON. Nothing
secret is in them: the key of the connection stays in the connection file.

Text from the system (arguments, paths, environment) may hold bytes that are not UTF-8; they travel
as the lone surrogates Python makes of them.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .launch import PROTOCOL

MAX_SIZE = 200_000
"""Bytes of a message."""

MAX_DESCRIPTORS = 4
"""stdin, stdout, stderr, and a pidfd of the process whose end ends the kernel."""

Message = dict[str, Any]


class OrderRefused(Exception):
    """A message that is no order, or one that this process can't carry out."""


@dataclass(frozen=True, slots=True)
class Order:
    """A kernel that somebody wants.

    Attributes:
        executable: the Python to run it.
        options: of that Python, as ``-Xfrozen_modules=off``.
        arguments: of the kernel, without the connection file.
        connection_file: with the ports to bind and the key.
        cwd: its directory.
        env: its whole environment.
        detached: it outlives the process that asked for it.
        other_ports: bind others in place of ports that are taken, and say which. Who asks has
            found its ports free, and somebody may have been quicker: of a hundred kernels started
            at once, some were refused for that.
    """

    executable: str
    options: Sequence[str]
    arguments: Sequence[str]
    connection_file: str
    cwd: str
    env: Mapping[str, str] = field(repr=False)
    detached: bool = False
    other_ports: bool = False

    def as_message(self) -> Message:
        """Return what `order_of` reads."""
        return {"protocol": PROTOCOL, **asdict(self)}


def order_of(message: Message) -> Order:
    """Read an order.

    Raises:
        OrderRefused: it is none.
    """
    if message.get("protocol") != PROTOCOL:
        raise OrderRefused(f"protocol {message.get('protocol')!r} is not {PROTOCOL}")
    texts = ("executable", "connection_file", "cwd")
    lists = ("options", "arguments")
    switches = ("detached", "other_ports")
    env = message.get("env")
    valid = (
        all(_is_text(message.get(name)) for name in texts)
        and all(
            isinstance(message.get(name), list) and all(map(_is_text, message[name]))
            for name in lists
        )
        and isinstance(env, dict)
        and all(
            _is_text(name) and _is_text(value) and name and "=" not in name
            for name, value in env.items()
        )
        and all(isinstance(message.get(name, False), bool) for name in switches)
    )
    if not valid:
        raise OrderRefused(
            "an order needs executable, options, arguments, connection_file, cwd, env"
        )
    return Order(
        **{name: message[name] for name in (*texts, *lists, "env")},
        **{name: message.get(name, False) for name in switches},
    )


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode("utf-8", "surrogateescape")  # as os.fsencode, whose encoding is not known here
    except UnicodeEncodeError:
        return False
    return True


LATE = ("HistoryManager.", "Limits.", "Savepoints.", "InteractiveShellApp.exec_")
"""Options that a kernel reads only after it was handed out. All others are read when a standby is
made, so standbys are made for them: they are in the pool's key."""


def split_arguments(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Divide a kernel's arguments into those a standby is made with and those it can take later.

    Returns:
        Early ones and late ones, each in order.
    """
    early: list[str] = []
    late: list[str] = []
    for argument in arguments:
        name = argument.removeprefix("--")
        is_late = argument.startswith("--") and "=" in name and name.startswith(LATE)
        (late if is_late else early).append(argument)
    return early, late


def send(sock: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
        OrderRefused: it is too large.
        OSError: the peer is gone.
    """
    data = json.dumps(message).encode()
    if len(data) > MAX_SIZE:
        raise OrderRefused(f"a message of {len(data)} bytes is over the limit of {MAX_SIZE}")
    ancillary = []
    if descriptors:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """Receive one message and the descriptors that came with it; an empty one if the peer is gone.

    Raises:
        OrderRefused: it is not a JSON object, or was too large. Its descriptors are closed.
        BlockingIOError: nothing is there, on a socket that does not block.
    """
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(MAX_SIZE + 1, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    try:
        if not data:
            message = {}
        elif flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise OrderRefused("the message is too large")
        else:
            message = json.loads(data)
        if not isinstance(message, dict):
            raise OrderRefused("the message is no JSON object")
    except (ValueError, RecursionError, OrderRefused) as error:
        close_all(descriptors)
        if isinstance(error, OrderRefused):
            raise
        raise OrderRefused(f"the message is not JSON: {error}") from None
    return message, list(descriptors)


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end, as the system knows them."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors that came with a message."""
    for descriptor in descriptors:
        os.close(descriptor)
