"""Types that are not saved, and why: what would come back is not the thing.

Some of them can't be pickled by anyone; they are listed for the sake of a message that helps. A
type is named, not imported: the kernel loads none of these modules for it.
"""

from __future__ import annotations

from ..exceptions import NotPicklable

_RUNNING = "it is running, in this process only"
_LOCK = "who holds it and who waits for it are threads of this process"
_CONNECTED = "the other end of it is outside this process"
_SUSPENDED = "Python can't save a function in the middle of its execution"
_IDENTITY = "it is known by its identity, to contexts that can't be saved"

_REASONS = {
    ("threading", "Thread"): _RUNNING,
    ("multiprocessing.process", "BaseProcess"): _RUNNING,
    ("multiprocessing.pool", "Pool"): _RUNNING,
    ("multiprocessing.managers", "BaseManager"): _RUNNING,
    ("subprocess", "Popen"): _RUNNING,
    ("concurrent.futures._base", "Executor"): _RUNNING,
    ("concurrent.futures._base", "Future"): _RUNNING,
    ("asyncio.events", "AbstractEventLoop"): _RUNNING,
    ("_asyncio", "Future"): _RUNNING,
    ("asyncio.futures", "Future"): _RUNNING,
    ("asyncio.runners", "Runner"): _RUNNING,
    ("_thread", "lock"): _LOCK,
    ("_thread", "RLock"): _LOCK,
    ("threading", "_RLock"): _LOCK,
    ("threading", "Condition"): _LOCK,
    ("threading", "Event"): _LOCK,
    ("threading", "Semaphore"): _LOCK,
    ("threading", "Barrier"): _LOCK,
    ("multiprocessing.synchronize", "SemLock"): _LOCK,
    ("queue", "Queue"): _LOCK,
    ("_queue", "SimpleQueue"): _LOCK,
    ("multiprocessing.queues", "Queue"): _CONNECTED,
    ("multiprocessing.queues", "SimpleQueue"): _CONNECTED,
    ("multiprocessing.connection", "_ConnectionBase"): _CONNECTED,
    ("_socket", "socket"): _CONNECTED,
    ("ssl", "SSLContext"): "it holds keys that OpenSSL does not give out",
    ("sqlite3", "Connection"): _CONNECTED,
    ("sqlite3", "Cursor"): _CONNECTED,
    ("selectors", "_BaseSelectorImpl"): "it watches open files of this process",
    ("mmap", "mmap"): "it is memory shared with a file",
    ("numpy", "memmap"): "it is memory shared with a file; a copy of it would not be",
    ("multiprocessing.shared_memory", "SharedMemory"): "it is memory shared with other processes",
    ("tempfile", "_TemporaryFileWrapper"): "its file is deleted with it",
    ("tempfile", "TemporaryDirectory"): "its directory is deleted with it",
    ("tempfile", "SpooledTemporaryFile"): "its file is deleted with it",
    ("logging", "Handler"): "it writes to an open file or connection",
    ("builtins", "generator"): _SUSPENDED,
    ("builtins", "coroutine"): _SUSPENDED,
    ("builtins", "async_generator"): _SUSPENDED,
    ("builtins", "coroutine_wrapper"): _SUSPENDED,
    ("builtins", "frame"): _SUSPENDED,
    ("builtins", "traceback"): _SUSPENDED,
    ("_thread", "_local"): "every thread of this process has another value in it",
    ("_thread", "_localdummy"): "every thread of this process has another value in it",
    ("_threading_local", "local"): "every thread of this process has another value in it",
    ("_contextvars", "ContextVar"): _IDENTITY,
    ("_contextvars", "Context"): _IDENTITY,
    ("_contextvars", "Token"): _IDENTITY,
    ("weakref", "finalize"): "it is to run once, in this process",
    ("weakref", "ProxyType"): "it passes for what it refers to; use weakref.ref",
    ("weakref", "CallableProxyType"): "it passes for what it refers to; use weakref.ref",
}


def reason_against(kind: type) -> str | None:
    """Return why objects of a type are not saved; None if nothing is known against it."""
    for base in kind.__mro__:
        reason = _REASONS.get((base.__module__, base.__qualname__))
        if reason is not None:
            return reason
    return None


def refuse(kind: type, reason: str) -> NotPicklable:
    """Return the error for an object of a type."""
    name = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    return NotPicklable(
        f"an object of type {name!r} can't be saved: {reason}. Delete the name before the state is "
        "saved, or register how to make it again: savepoint.refs.put(obj, recreate=...)."
    )


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
