"""The zygote: has imported what kernels need, read their configuration, made a shell; and forks.

    daemon ── zygote                 imports, freezes, forks; one thread, never anything else
       └────── child of it           forks the kernel and ends, so that the kernel's parent is ...
       └── kernel                    ... the daemon (PR_SET_CHILD_SUBREAPER), or init after it

That the daemon is the parent is why it knows every exit status, and why neither its end nor the
zygote's ends a kernel. The zygote ends when its socket to the daemon closes.

One thread is a must: fork copies only the thread that calls it, and what the others hold stays
locked for good. So it is checked after the imports and the configuration files: a module that
starts a thread when it is imported can't be preloaded. No zmq context exists here either (it has
threads), and BLAS gets one thread until the fork (`blas`).

``gc.freeze`` keeps the collector of a child from writing to every object it inherits: memory is
shared as long as nobody writes to it.

Seeds: `random` reseeds itself after a fork, numpy is reseeded here. Kernels of one zygote have the
same hash seed (PYTHONHASHSEED), as it can't be changed in a running process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import signal
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from . import blas, orders
from .handover import default_backend
from .postponed import module_files

MODULES = (
    "savepoint_kernel.standby",
    "savepoint_kernel.history.assembly",
    "savepoint_kernel.history.expiry",
    "savepoint_kernel.history.keeping",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "IPython.utils.wildcard",
    "faulthandler",
    "jedi",
    "pdb",
    "psutil",
    "pydoc",
    "tornado.platform.asyncio",
)
"""What a kernel imports from its start to its first completion."""

MAX_WATCHED = 1000
"""Paths: they are to fit into a message. Every installation changes one of the upper ones."""


class PreloadRefused(Exception):
    """A module that can't be imported before a fork."""


def preload(names: list[str]) -> None:
    """Import modules.

    Raises:
        PreloadRefused: one of them can't be imported, or starts a thread.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise PreloadRefused(f"{name} can't be imported: {error!r}") from error
        _refuse_threads(f"importing {name}", "leave it out of preload")


def _refuse_threads(cause: str, way_out: str) -> None:
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        called = [Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in threads]
        raise PreloadRefused(
            f"{cause} starts threads ({', '.join(called)}), which a fork would lose: {way_out}"
        )


def _watched(configuration_files: Iterable[str]) -> orders.Message:
    """List what changes when the environment does.

    Installers add and remove files, which changes directories. Outside of site-packages, files are
    watched one by one, as somebody edits them; and directories only for names that would take the
    place of what is imported: notebooks may lie there, which are saved all the time.

    Returns:
        ``paths`` to watch, and ``names`` that would matter in ``folders``.
    """
    stdlib = sysconfig.get_path("stdlib")
    paths = set(configuration_files)
    folders: set[str] = set()
    for path in filter(None, sys.path):
        (paths if _is_site(path) or path.startswith(stdlib) else folders).add(path)
        if _is_site(path):
            paths.update(str(file) for file in Path(path).glob("*.pth"))
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file:
            directory = os.path.dirname(file)
            if _is_site(directory):
                paths.add(directory)
            elif not directory.startswith(stdlib):
                paths.add(file)
    shallow = sorted(paths, key=lambda path: (path.count("/"), path))
    return {
        "paths": shallow[:MAX_WATCHED],
        "folders": sorted(folders),
        "names": sorted({name.partition(".")[0] for name in sys.modules}),
    }


def _is_site(directory: str) -> bool:
    return "site-packages" in directory or "dist-packages" in directory


def serve(control: socket.socket) -> socket.socket | None:
    """Fork a kernel whenever the daemon asks for one.

    Args:
        control: to the daemon.

    Returns:
        In a kernel, its own socket to the daemon. In the zygote None, when the daemon is gone.
    """
    while True:
        message, descriptors = orders.receive(control)
        if not message:
            return None
        child = os.fork()
        if child == 0:
            control.close()
            if os.fork():
                os._exit(0)
            return socket.socket(fileno=descriptors[0])
        os.waitpid(child, 0)
        orders.close_all(descriptors)


def begin_child() -> None:
    """Make a forked process one that shares no randomness, secrets or signals with its siblings."""
    os.setsid()  # a signal to the kernel's group is for nobody else
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the daemon's is that of whoever started it
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "multiprocessing.process" in sys.modules:
        process = sys.modules["multiprocessing.process"].current_process()
        process.authkey = os.urandom(32)


def end_child() -> NoReturn:
    """End a forked process as Python ends one, but for destroying what it shares with the zygote.

    To do that every object is written to, and its memory copied: 35 ms to the end of an idle kernel
    were 115. Processes that `multiprocessing` forks end in this way, too.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    gc.collect()  # an open file that is part of a cycle is written; what is frozen is no part of it
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):  # it is closed, or nobody reads it
            stream.flush()
    os._exit(0)


def main() -> None:
    """``python -m savepoint_kernel.zygote FD``: serve the daemon at the other end of FD."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; it is for the front end
    request, _ = orders.receive(control)
    began = time.time_ns()
    default_backend()  # matplotlib reads it when it is imported
    try:
        with blas.single_threaded():
            preload([*MODULES, *request["preload"]])
        from .standby import configured, live

        app = configured(request["arguments"])
        _refuse_threads("reading the configuration", "start none in configuration files")
    except PreloadRefused as error:
        orders.send(control, {"refused": str(error)})
        return
    module_files()
    gc.collect()
    gc.freeze()
    orders.send(
        control, {"ready": True, "began": began, "watch": _watched(app.configuration_files())}
    )
    sock = serve(control)
    if sock is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        begin_child()
        live(sock, app)
        end_child()


if __name__ == "__main__":
    # As in `__main__`: what lies in the current directory must not stand in for our modules.
    if sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    main()
