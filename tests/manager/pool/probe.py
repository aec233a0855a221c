"""What a process is made of, as far as user code can see it: run in kernels that are compared."""

from __future__ import annotations

import builtins
import decimal
import gc
import getpass
import json
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import ipykernel


def probe(user: dict[str, Any]) -> dict[str, object]:
    shell = user["get_ipython"]()
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return {
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "flags": repr(sys.flags),
        "warnoptions": sys.warnoptions,
        "xoptions": sys._xoptions,
        "executable": sys.executable,
        "prefix": sys.prefix,
        "excepthook": repr(type(sys.excepthook)),
        "displayhook": repr(type(sys.displayhook)),
        "recursion": sys.getrecursionlimit(),
        "switch": sys.getswitchinterval(),
        "meta_path": [repr(getattr(finder, "__name__", type(finder))) for finder in sys.meta_path],
        "encodings": [sys.stdout.encoding, sys.stdin.encoding, sys.getfilesystemencoding()],
        "locale": locale.setlocale(locale.LC_ALL),
        "timezone": [time.tzname, time.timezone],
        "temporary": tempfile.gettempdir(),
        "home": os.path.expanduser("~"),
        "user": getpass.getuser(),
        "hostname": socket.gethostname(),
        "limits": {
            name: resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        },
        "signals": {
            number.name: getattr(signal.getsignal(number), "__qualname__", signal.getsignal(number))
            for number in signal.valid_signals()
            if isinstance(number, signal.Signals)
        },
        "wakeup": signal.set_wakeup_fd(-1) >= 0,
        "system": {
            name: status[name]
            for name in ("Umask", "NoNewPrivs", "Cpus_allowed", "SigBlk", "SigIgn", "SigCgt")
        },
        "nice": os.nice(0),
        "groups": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()],
        "oom": Path("/proc/self/oom_score_adj").read_text(),
        "stdin": os.readlink("/proc/self/fd/0"),
        "warnings": sorted(repr(entry) for entry in warnings.filters),
        "loggers": [
            logging.getLogger().level,
            [repr(type(h)) for h in logging.getLogger().handlers],
        ],
        "decimal": repr(decimal.getcontext()),
        "random": random.getstate()[0],
        "gc": [gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks.__len__()],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "builtins": sorted(vars(builtins)),
        "main": sorted(vars(sys.modules["__main__"])),
        "history": [shell.execution_count, len(user["In"]), user["Out"], user["_dh"]],
        "history_file": shell.history_manager.hist_file,
        "session": user["__session__"],
        "connection_file": ipykernel.get_connection_file(),
        "connection_info": ipykernel.get_connection_info()
        == Path(ipykernel.get_connection_file()).read_text(),
        "extensions": sorted(shell.extension_manager.loaded),
        "main_spec": repr(getattr(sys.modules["__main__"], "__spec__", None)),
        "main_file": repr(getattr(sys.modules["__main__"], "__file__", None)),
    }


def dump(path: str, user: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(probe(user), default=repr))
