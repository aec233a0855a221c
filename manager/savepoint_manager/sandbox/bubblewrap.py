"""What a sandboxed kernel finds: bubblewrap's command line, as data with reasons.

Everything that is shown is named; what nobody names is not there. The other way, all of the system
read-only but for what is secret, would have to know all secrets, and every socket in a file system,
as these can be connected to however read-only they are mounted (/run, /tmp, the pool's).

Threads: any.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jupyter_core.paths import jupyter_config_path, jupyter_data_dir, jupyter_runtime_dir

from savepoint_kernel.launch import pool_directory

SHARED_DIRECTORY = "read-only"
"""Default for how a kernel sees the directory it is started in."""

_SYSTEM = """
    /usr /bin /sbin /lib /lib32 /lib64 /libx32 /nix/store
    /sys/devices/system/cpu
""".split()
"""Programs and libraries; the number of CPUs, for libraries that start threads."""

_SETTINGS = """
    alternatives fonts group host.conf hosts ipython ld.so.cache ld.so.conf ld.so.conf.d
    locale.alias locale.conf localtime machine-info magic matplotlibrc mime.types nsswitch.conf
    os-release passwd protocols services timezone
""".split()
"""Of /etc: what libraries look up, and no secret."""

_OF_THE_SYSTEM = [
    "/proc",
    *(f"/dev/{name}" for name in "null zero full random urandom tty".split()),
]
"""What a front end that is root owns in there, without any privilege: sysctls, modes of devices.

Devices are written to as ever: that changes no file system.
"""

_VARIABLES = frozenset(
    """
    COLORTERM JPY_SESSION_NAME LANG LANGUAGE LOGNAME MPLBACKEND NO_COLOR PATH TERM TZ USER
    """.split()
)
_VARIABLE_PREFIXES = ("LC_", "MKL_", "NUMBA_", "NUMEXPR_", "OMP_", "OPENBLAS_", "PYTHON")
"""Of the environment: what says how, not who. Tokens have names that nobody can list."""

_CONFINED = (
    "--unshare-user",  # no privilege over anything outside, even if the front end is root
    "--unshare-pid",  # nobody else's process to be seen or signalled
    "--unshare-net",  # a loopback of its own; abstract sockets are gone with the network
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--cap-drop",
    "ALL",
    "--new-session",  # can't type into the front end's terminal; a group to be interrupted
    "--die-with-parent",
)

_ASK = (
    "import json, sys;"
    "print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, *filter(None, sys.path)]))"
)


@dataclass(frozen=True, slots=True)
class Session:
    """The directories of one sandbox outside of it. All are removed with it.

    Args:
        root: a directory that only its owner may enter.
    """

    root: Path

    @classmethod
    def make(cls) -> Session:
        """Make the directories."""
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > 60:  # a socket's path may have 107 bytes
            base = "/tmp"
        session = cls(Path(tempfile.mkdtemp(prefix="savepoint-", dir=base)).resolve())
        for directory in (session.home, session.temporary, session.sockets):
            directory.mkdir(mode=0o700)
        session.connection_file.touch(mode=0o600)
        return session

    @property
    def home(self) -> Path:
        """Home directory in the sandbox. The timeline's store is in it."""
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        """/tmp in the sandbox. On disk: a tmpfs would be memory that no limit counts."""
        return self.root / "tmp"

    @property
    def connection_file(self) -> Path:
        """The kernel's copy: ipykernel writes into it."""
        return self.root / "connection.json"

    @property
    def sockets(self) -> Path:
        """Sockets of the connection: the only directory with the same path inside and outside."""
        return self.root / "ipc"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a kernel is to find in its sandbox, and how it is to be started.

    Args:
        command: of the kernel; the interpreter first.
        cwd: directory the front end wants it to start in.
        env: all of the environment that the front end has for it.
        connection_file: the kernel's own.
        directory: how it sees ``cwd``: "hidden", "read-only" or "writable".
        show: more files and directories, read-only.
        variables: names of variables that are let in, beside those that always are.
    """

    command: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    connection_file: str
    directory: str = SHARED_DIRECTORY
    show: Sequence[str] = ()
    variables: Iterable[str] = ()


def environment(wish: Wish) -> dict[str, str]:
    """Return the environment in the sandbox."""
    wanted = _VARIABLES.union(wish.variables)
    env = {
        name: value
        for name, value in wish.env.items()
        if name in wanted or name.startswith(_VARIABLE_PREFIXES)
    }
    return {**env, "HOME": _home(wish.env)}


def command_line(bubblewrap: str, session: Session, wish: Wish) -> tuple[list[str], list[str]]:
    """Spell a sandbox.

    Args:
        bubblewrap: path of ``bwrap``.
        session: its directories.
        wish: what is to be in there.

    Returns:
        The command up to what runs in the sandbox, and the directories that were asked for and
        are not shown, as the home directory or other sessions would be with them.
    """
    home, outside = _home(wish.env), os.path.expanduser("~")
    private = _private(wish)
    hidden = [str(Path(path)) for path in {home, outside, str(session.root.parent)}]
    arguments = [bubblewrap, *_CONFINED, *_optional(bubblewrap)]
    shown: list[str] = []
    left_out: list[str] = []

    def show(path: str, bind: str = "--ro-bind") -> bool:
        path = os.path.abspath(os.path.expanduser(path))
        for form in {path, os.path.realpath(path)}:
            if any(_within(place, form) for place in hidden) or any(
                _within(form, place) for place in private
            ):
                left_out.append(path)
                return False
        if bind != "--ro-bind" or not any(_within(path, place) for place in shown):
            arguments.extend((bind, path, path))
            shown.append(path)
        return True

    for path in (*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS)):
        if os.path.islink(path) and path in _SYSTEM:
            arguments += ("--symlink", os.readlink(path), path)
        elif os.path.exists(path):
            arguments += ("--ro-bind", path, path)
            shown.append(path)
    arguments += ("--proc", "/proc", "--dev", "/dev")
    for path in _OF_THE_SYSTEM:
        arguments += ("--remount-ro", path)
    arguments += ("--bind", str(session.temporary), "/tmp", "--symlink", "/tmp", "/var/tmp")
    arguments += ("--bind", str(session.home), home)
    for path in (*_of_interpreter(wish.command[0], wish.env), *wish.show):
        if os.path.exists(path):
            show(path)
    cwd = home
    if wish.directory != "hidden":
        bind = "--bind" if wish.directory == "writable" else "--ro-bind"
        cwd = wish.cwd if show(wish.cwd, bind) else home
    for path in _outermost(private):
        if os.path.isdir(path) and any(_within(path, place) for place in shown):
            arguments += ("--tmpfs", path, "--remount-ro", path)
    arguments += ("--bind", str(session.sockets), str(session.sockets))
    arguments += ("--bind", str(session.connection_file), wish.connection_file)
    arguments += ("--remount-ro", "/", "--chdir", cwd)
    return arguments, left_out


def _home(env: Mapping[str, str]) -> str:
    """Return the path of the home directory: the usual one, so that what is in it is found."""
    home = os.path.normpath(env.get("HOME") or "/")
    return home if os.path.isabs(home) and home != "/" else "/home/savepoint"


def _private(wish: Wish) -> set[str]:
    """Return directories with keys of other kernels, sockets of the pool, tokens of servers."""
    paths = {jupyter_runtime_dir(), jupyter_data_dir(), *jupyter_config_path()}
    paths |= {pool_directory(wish.env)} - {""}
    others = os.path.dirname(wish.connection_file)
    if not _within(wish.cwd, others) and not _within(tempfile.gettempdir(), others):
        paths.add(others)
    return paths | {os.path.realpath(path) for path in paths}


def _of_interpreter(executable: str, env: Mapping[str, str]) -> list[str]:
    """Return where an interpreter has its library and packages."""
    found: list[str] = []
    path = Path(executable)
    while path.is_symlink():  # of an environment, of a version: each link must be there
        found.append(str(path.parent.parent))
        path = path.parent / os.readlink(path)
    # Where packages are is asked in a directory without any: "" and PYTHONPATH=. are the cwd.
    answer = subprocess.run(
        [executable, "-c", _ASK], env=dict(env), cwd="/", stdout=subprocess.PIPE, check=True
    )
    return [*json.loads(answer.stdout), *found, str(path.parent.parent)]


def _outermost(paths: Iterable[str]) -> Iterator[str]:
    """Leave out what is in another one."""
    last = ""
    for path in sorted(paths, key=lambda path: Path(path).parts):
        if not last or not _within(path, last):
            last = path
            yield path


def _within(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


@cache
def _optional(bubblewrap: str) -> tuple[str, ...]:
    """Return what only newer versions can do: no sandboxes, and their privileges, in it."""
    answer = subprocess.run([bubblewrap, "--help"], stdout=subprocess.PIPE, check=True)
    return ("--disable-userns",) if b"--disable-userns" in answer.stdout else ()
