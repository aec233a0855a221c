"""What a sandboxed kernel finds: bubblewrap's command line, as data with reasons.

Everything that is shown is named; what nobody names is not there. The other way, all of the system
read-only but for what is secret, would have to know all secrets, and every socket in a file system,
as these can be connected to however read-only they are mounted (/run, /tmp, the pool's).

Threads: any.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jupyter_core.paths import jupyter_config_path, jupyter_data_dir, jupyter_runtime_dir

from savepoint_kernel.launch import pool_directory

from ..exceptions import SandboxUnavailable
from .guard import guarded, parents, within
from .interpreter import Interpreter
from .session import Session

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

_NEVER = ("/proc", "/sys", "/dev", "/run/user")
"""What nobody can ask for: the processes, devices and services outside."""

_VARIABLES = frozenset(
    """
    COLORTERM JPY_SESSION_NAME LANG LANGUAGE LOGNAME MPLBACKEND NO_COLOR PATH TERM TZ USER

    LC_ADDRESS LC_ALL LC_COLLATE LC_CTYPE LC_IDENTIFICATION LC_MEASUREMENT LC_MESSAGES LC_MONETARY
    LC_NAME LC_NUMERIC LC_PAPER LC_TELEPHONE LC_TIME

    PYTHONASYNCIODEBUG PYTHONBREAKPOINT PYTHONCASEOK PYTHONCOERCECLOCALE PYTHONDEBUG PYTHONDEVMODE
    PYTHONDONTWRITEBYTECODE PYTHONFAULTHANDLER PYTHONHASHSEED PYTHONHOME PYTHONINTMAXSTRDIGITS
    PYTHONIOENCODING PYTHONMALLOC PYTHONMALLOCSTATS PYTHONNODEBUGRANGES PYTHONNOUSERSITE
    PYTHONOPTIMIZE PYTHONPATH PYTHONPERFSUPPORT PYTHONPLATLIBDIR PYTHONPROFILEIMPORTTIME
    PYTHONPYCACHEPREFIX PYTHONSAFEPATH PYTHONTRACEMALLOC PYTHONUNBUFFERED PYTHONUSERBASE PYTHONUTF8
    PYTHONVERBOSE PYTHONWARNDEFAULTENCODING PYTHONWARNINGS PYTHON_COLORS PYTHON_CPU_COUNT
    PYTHON_FROZEN_MODULES PYTHON_GIL PYTHON_JIT
    """.split()
)
_VARIABLE_PREFIXES = ("MKL_", "NUMBA_", "NUMEXPR_", "OMP_", "OPENBLAS_")
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


@dataclass(frozen=True, slots=True)
class Wish:
    """What a kernel is to find in its sandbox, and how it is to be started.

    Args:
        interpreter: of the kernel.
        cwd: directory the front end wants it to start in.
        env: all of the environment that the front end has for it.
        connection_file: the kernel's own.
        directory: how it sees ``cwd``: "hidden", "read-only" or "writable".
        show: more files and directories, read-only.
        variables: names of variables that are let in, beside those that always are.
    """

    interpreter: Interpreter
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

    Raises:
        SandboxUnavailable: what runs outside is in a writable directory, and can be replaced; or
            the session has links where something is to be shown.
    """
    home = _home(wish.env)
    private = _private(wish)
    # What can't be shown without something that must not be seen.
    homes = (home, os.path.expanduser("~"))
    above = {*homes, *map(os.path.realpath, homes), str(session.root.parent), "/tmp", "/var/tmp"}

    def may_be_shown(path: str) -> bool:
        return not any(
            any(within(place, form) for place in (*above, *_NEVER))
            or any(within(form, place) for place in (*private, *_NEVER))
            for form in (path, os.path.realpath(path))
        )

    read_only = [*wish.interpreter.places, *wish.show]
    asked = {os.path.abspath(os.path.expanduser(path)): "--ro-bind" for path in read_only}
    if wish.directory != "hidden":
        asked[wish.cwd] = "--bind" if wish.directory == "writable" else "--ro-bind"
    asked = {path: bind for path, bind in asked.items() if os.path.exists(path)}
    left_out = [path for path in asked if not may_be_shown(path)]
    wanted = {path: bind for path, bind in asked.items() if path not in left_out}
    # A link that is shown as part of something leads there.
    wanted = {os.path.realpath(path): "--ro-bind" for path in wanted if path != wish.cwd} | wanted
    if wanted.get(wish.cwd) == "--bind":
        wanted |= dict.fromkeys(guarded(wish.cwd, wish.interpreter), "--ro-bind")

    arguments = [bubblewrap, *_CONFINED, *_optional(bubblewrap)]
    shown: dict[str, str] = {}
    for path in (*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS)):
        if os.path.islink(path) and path in _SYSTEM:
            arguments += ("--symlink", os.readlink(path), path)
        elif os.path.exists(path):
            arguments += ("--ro-bind", path, path)
            shown[path] = "--ro-bind"
    # Sysctls belong to root, and obey a front end that is root whatever its privileges.
    arguments += ("--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev")
    arguments += ("--tmpfs", "/dev/shm", "--remount-ro", "/dev")
    arguments += ("--bind", str(session.temporary), "/tmp", "--symlink", "/tmp", "/var/tmp")
    arguments += ("--bind", str(session.home), home)
    mounts: dict[str, str] = {}
    # Outer ones first: an environment in a directory that may be written to is not for writing.
    for path in sorted(wanted, key=_depth):
        if _bind_of(path, shown) != wanted[path]:
            mounts[path] = shown[path] = wanted[path]
    pool = pool_directory(wish.env)
    if pool and any(within(os.path.realpath(pool), os.path.realpath(place)) for place in shown):
        os.makedirs(pool, mode=0o700, exist_ok=True)  # what comes later can't be covered
    masked = _masked(shown, private)
    if wish.directory == "writable":
        # Bound onto itself, as a directory that is a mount can't be renamed.
        for path in parents((*mounts, *masked), wish.cwd):
            if _bind_of(path, shown) == "--bind":
                mounts[path] = "--bind"
    links = {
        link: target
        for link, target in wish.interpreter.links.items()
        if _bind_of(link, shown) is None
    }
    # In directories that the session keeps a link would be there already the next time.
    kept = {home, "/tmp"}
    fresh = {os.path.dirname(link) for link in links if any(within(link, place) for place in kept)}
    fresh -= kept
    for path in sorted(fresh):
        arguments += ("--tmpfs", path)
    for link, target in links.items():
        if os.path.dirname(link) not in kept:
            arguments += ("--symlink", target, link)
    for path in sorted(mounts, key=_depth):
        arguments += (mounts[path], path, path)
    for path in masked:
        arguments += ("--tmpfs", path)
    arguments += ("--bind", str(session.sockets), str(session.sockets))
    arguments += ("--bind", str(session.connection_file), wish.connection_file)
    for path in (*masked, *sorted(fresh)):
        arguments += ("--remount-ro", path)
    own = (str(session.sockets), wish.connection_file)
    _refuse_links((home, *fresh, *mounts, *masked, *own), home, session)
    starts_in = wish.cwd if wish.cwd in wanted else home
    arguments += ("--remount-ro", "/", "--chdir", starts_in)
    return arguments, left_out


def _home(env: Mapping[str, str]) -> str:
    """Return the path of the home directory: the usual one, so that what is in it is found."""
    home = os.path.normpath(env.get("HOME") or "/")
    return home if os.path.isabs(home) and home != "/" else "/home/savepoint"


def _private(wish: Wish) -> set[str]:
    """Return directories with keys of other kernels, sockets of the pool, tokens of servers."""
    paths = {jupyter_runtime_dir(), jupyter_data_dir(), *jupyter_config_path()}
    paths |= {pool_directory(wish.env)} - {""}
    others = os.path.dirname(wish.connection_file)  # usually one of these; or where all kinds are
    if not within(wish.cwd, others) and not within(tempfile.gettempdir(), others):
        paths.add(others)
    return paths | {os.path.realpath(path) for path in paths}


def _masked(shown: Iterable[str], private: Iterable[str]) -> list[str]:
    """Return which directories in those that are shown must be covered, by their paths there."""
    covered: list[str] = []
    for path in sorted({os.path.realpath(path) for path in private}):
        for place in shown:
            real = os.path.realpath(place)
            at = os.path.normpath(os.path.join(place, os.path.relpath(path, real)))
            within_another = any(within(at, other) for other in covered)
            if within(path, real) and os.path.isdir(path) and not within_another:
                covered.append(at)
    return covered


def _refuse_links(places: Iterable[str], home: str, session: Session) -> None:
    """Refuse links that the session left where it will be bound to: bubblewrap follows them.

    They lead anywhere outside, where it would make a directory to bind to.
    """
    for place in places:
        for inside, outside in ((home, session.home), ("/tmp", session.temporary)):
            if within(place, inside) and place != inside:
                there = os.path.join(outside, os.path.relpath(place, inside))
                if os.path.realpath(there) != there:
                    raise SandboxUnavailable(
                        f"Code in the sandbox has put a link on the way to {place}. Start another "
                        "session instead of this one"
                    )
                break


def _bind_of(path: str, shown: Mapping[str, str]) -> str | None:
    """Return how a path is shown; None if it is not."""
    around = [place for place in shown if within(path, place)]
    return shown[max(around, key=len)] if around else None


def _depth(path: str) -> int:
    return len(Path(path).parts)


@cache
def _optional(bubblewrap: str) -> tuple[str, ...]:
    """Return what only newer versions can do: no sandboxes, and their privileges, in it."""
    answer = subprocess.run([bubblewrap, "--help"], stdout=subprocess.PIPE, check=True)
    return ("--disable-userns",) if b"--disable-userns" in answer.stdout else ()
