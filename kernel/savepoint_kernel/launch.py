"""The shim: a kernelspec's ``argv`` for front ends that start the process by themselves.

    python -I -S launch.py -Xfrozen_modules=off -m savepoint_kernel -f FILE

asks the pool for a kernel on FILE and stands for it: its signals are the kernel's, its exit status
is the kernel's, and when it ends so does the kernel. Without a pool it becomes what comes after its
name, by exec, and starts the pool for the next one.

It is copied beside kernel.json and runs without the package, and must be quick: -I -S leaves out
``site`` (20 ms of 35), and the C modules used here are those behind os, socket, signal and json,
whose import would take another 20. The format of the messages is that of `orders`.

Threads: one.
"""

from __future__ import annotations

import sys

try:
    import _signal  # type: ignore[import-not-found]
    import _socket
    import posix
    from _json import encode_basestring_ascii as quoted
except ImportError:  # no POSIX system: there is no pool
    posix = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

SOCKET = "pool.sock"
DIRECTORY_VARIABLE = "SAVEPOINT_POOL_DIR"
SWITCH_VARIABLE = "SAVEPOINT_POOL"
"""``0`` in it: kernels are started, not taken from a pool."""

PROTOCOL = 1
"""Changes when an older daemon, kernel or front end would misunderstand a newer one."""

MODULE = "savepoint_kernel"
DAEMON = "savepoint_manager.pool.daemon"

ANSWER_TIMEOUT = 30.0
"""Seconds until a pool that does not answer is given up on."""

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGWINCH")


def pool_directory(env: Mapping[str, str]) -> str:
    """Find the directory of the pool's socket.

    Args:
        env: an environment.

    Returns:
        ``SAVEPOINT_POOL_DIR``, or a directory in Jupyter's runtime directory, or in the one that
        the system keeps per user and machine; else one in the home directory, by the machine's
        name, as homes are shared between machines. Empty if there is no home either.
    """
    if env.get(DIRECTORY_VARIABLE):
        return env[DIRECTORY_VARIABLE]
    for variable in ("JUPYTER_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        if env.get(variable):
            return env[variable] + "/savepoint-pool"
    if not env.get("HOME"):
        return ""
    data = env.get("JUPYTER_DATA_DIR") or (
        (env.get("XDG_DATA_HOME") or env["HOME"] + "/.local/share") + "/jupyter"
    )
    return f"{data}/runtime/savepoint-pool-{_socket.gethostname()}"


def split_command(command: Sequence[str]) -> tuple[list[str], str, list[str]] | None:
    """Take a kernel's command line apart.

    Args:
        command: what comes after the interpreter.

    Returns:
        Options of the interpreter, the connection file, the kernel's other arguments. None if it is
        not the command line of a Savepoint kernel.
    """
    try:
        at = command.index("-m")
    except ValueError:
        return None
    options, arguments = list(command[:at]), list(command[at + 2 :])
    if list(command[at + 1 : at + 2]) != [MODULE] or any(
        not option.startswith("-") or option in ("-c", "-W", "-X") for option in options
    ):
        return None
    connection_file = ""
    rest = []
    while arguments:
        argument = arguments.pop(0)
        if argument == "-f" and arguments:
            connection_file = arguments.pop(0)
        elif argument.startswith(("-f=", "--f=", "--ConnectionFileMixin.connection_file=")):
            connection_file = argument.partition("=")[2]
        else:
            rest.append(argument)
    return (options, connection_file, rest) if connection_file else None


def _order(kind: str, command: Sequence[str], env: Mapping[str, str]) -> bytes | None:
    """Spell an order as JSON; None if the command is not a Savepoint kernel's."""
    parts = split_command(command)
    if parts is None:
        return None
    options, connection_file, arguments = parts

    def listed(texts: Sequence[str]) -> str:
        return f"[{','.join(map(quoted, texts))}]"

    cwd = posix.getcwd()
    if not connection_file.startswith("/"):
        connection_file = f"{cwd}/{connection_file}"
    variables = ",".join(f"{quoted(name)}:{quoted(value)}" for name, value in env.items())
    return (
        f'{{"op":"{kind}","protocol":{PROTOCOL},"executable":{quoted(sys.executable)},'
        f'"options":{listed(options)},"arguments":{listed(arguments)},'
        f'"connection_file":{quoted(connection_file)},"cwd":{quoted(cwd)},"env":{{{variables}}}}}'
    ).encode()


def _send(sock: _socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    packed = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)] if packed else []
    sock.sendmsg([data], ancillary)


def _ask(env: Mapping[str, str], order: bytes) -> tuple[_socket.socket, int] | None:
    """Ask the pool for a kernel; None if it has none. OSError if there is no pool."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sock.settimeout(ANSWER_TIMEOUT)
    sock.connect(f"{pool_directory(env)}/{SOCKET}")
    owner = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8]
    if int.from_bytes(owner, sys.byteorder) != posix.getuid():
        raise PermissionError("somebody else's pool")
    us = posix.pidfd_open(posix.getpid())
    _send(sock, order, (0, 1, 2, us))
    posix.close(us)
    answer = sock.recv(4096)
    if not answer.startswith(b'{"pid": '):
        return None
    sock.settimeout(None)
    return sock, _number(answer)


def _number(answer: bytes) -> int:
    """Read an object of one item, a number."""
    return int(answer[answer.index(b":") + 1 : -1])


def _stand_for(sock: _socket.socket, pid: int) -> int:
    """Pass signals on until the kernel has ended; return its exit status as Popen has it."""
    try:
        kernel = posix.pidfd_open(pid)
    except ProcessLookupError:  # ended and waited for
        answer = sock.recv(4096)
        return _number(answer) if answer else 1

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            _signal.pidfd_send_signal(kernel, number)
        except ProcessLookupError:
            return  # it has ended: its status comes next

    for name in FORWARDED:
        _signal.signal(getattr(_signal, name), forward)
    answer = sock.recv(4096)  # a signal handler runs, and the call goes on
    if answer:
        return _number(answer)
    # The pool has ended, the kernel has not: wait for it. Nobody knows its status then.
    import select

    poll = select.poll()
    poll.register(kernel, select.POLLIN)
    poll.poll()
    return 1


def _end(status: int) -> None:
    """End as the kernel did."""
    if status < 0:
        if -status not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(-status, _signal.SIG_DFL)
        posix.kill(posix.getpid(), -status)
    posix._exit(status & 0xFF)


def _start_pool(order: bytes) -> None:
    """Start the pool beside us, with the order as its first: what to keep ready."""
    ours, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        _send(ours, order)
    except OSError:
        return  # it is too large: no pool would take it
    child = posix.fork()
    if child:
        posix.waitpid(child, 0)
        return
    try:
        posix.setsid()
        if posix.fork() == 0:
            null = posix.open("/dev/null", posix.O_RDWR)
            for number in range(3):  # those of the front end are the kernel's
                posix.dup2(null, number)
            posix.set_inheritable(its.fileno(), True)
            arguments = [sys.executable, "-m", DAEMON, "--first", str(its.fileno())]
            posix.execv(sys.executable, arguments)
    finally:
        posix._exit(0)


def main() -> None:
    """Get a kernel from the pool, or become one."""
    command = sys.argv[1:]
    if hasattr(posix, "pidfd_open"):
        # By way of the bytes: -I -S has no os.environ.
        env = {
            name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
            for name, value in posix.environ.items()
        }
        order = None if env.get(SWITCH_VARIABLE) == "0" else _order("launch", command, env)
        if order is not None:
            try:
                kernel = _ask(env, order)
            except OSError:
                warm = _order("warm", command, env)
                if warm is not None and pool_directory(env):
                    _start_pool(warm)
            else:
                if kernel is not None:
                    _end(_stand_for(*kernel))
    if hasattr(posix, "execv"):
        posix.execv(sys.executable, [sys.executable, *command])
    # Windows has no exec: wait for the kernel; it inherits the events that interrupt and end it.
    import subprocess

    sys.exit(subprocess.call([sys.executable, *command], close_fds=False))


if __name__ == "__main__":
    main()
