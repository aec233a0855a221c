"""Pools of real kernels, cells run to their end, and what a pool has in the system."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

from savepoint_manager import PoolConfig, Session, SessionPool
from savepoint_manager.sessions import Done, Event, Output, Result

E = TypeVar("E")

Kernels = Callable[[], set[psutil.Process]]

PATIENCE = 60.0
"""Seconds after which something that should have happened counts as a failure."""

LOOK = 0.01
"""Seconds between two looks at something that tells nobody when it changes."""


def pool_of(**options: Any) -> SessionPool:
    """Return a small pool that refills at once."""
    return SessionPool(PoolConfig(**{"min_idle": 0, "refill_delay": 0.0, **options}))


async def run(session: Session, code: str, **options: Any) -> list[Event]:
    """Run a cell to its end."""
    return [event async for event in session.execute(code, **options)]


async def ok(session: Session, code: str, **options: Any) -> list[Event]:
    """Run a cell that must succeed."""
    events = await run(session, code, **options)
    assert done(events).status == "ok", events
    return events


async def value(session: Session, expression: str) -> str:
    """Return the text of an expression's value."""
    (result,) = of(Result, await ok(session, expression, store_history=False))
    return result.data["text/plain"]


async def names(session: Session) -> set[str]:
    """Return the user's names."""
    code = "[name for name in get_ipython().user_ns if not name.startswith('_')]"
    hidden = {"In", "Out", "exit", "quit", "open", "get_ipython"}
    return set(await session.evaluate(code)) - hidden


def of(kind: type[E], events: list[Event]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def done(events: list[Event]) -> Done:
    (last,) = of(Done, events)
    assert events[-1] is last
    return last


def text(events: list[Event], name: str = "stdout") -> str:
    return "".join(event.text for event in of(Output, events) if event.name == name)


def merged(events: list[Event]) -> list[Event]:
    """Join pieces of output; in how many a line comes depends on how busy the machine is."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Output) and isinstance(last, Output) and event.name == last.name:
            joined[-1] = Output(event.name, last.text + event.text)
        else:
            joined.append(event)
    return joined


async def output(session: Session, code: str, wanted: str) -> asyncio.Task[list[Event]]:
    """Start a cell in a task, and wait until it has printed ``wanted``."""
    printed = asyncio.Event()

    async def collect() -> list[Event]:
        events: list[Event] = []
        async for event in session.execute(code):
            events.append(event)
            if wanted in text(events):
                printed.set()
        return events

    task = asyncio.ensure_future(collect())
    await asyncio.wait({task, asyncio.ensure_future(printed.wait())}, return_when="FIRST_COMPLETED")
    assert printed.is_set(), task.result()
    return task


async def until(look: Callable[[], Any], what: str) -> None:
    """Wait until a look gives something true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not look():
        assert loop.time() < deadline, f"not within {PATIENCE} s: {what}"
        await asyncio.sleep(LOOK)


async def pid(session: Session) -> int:
    return int(await session.evaluate("__import__('os').getpid()"))


def children() -> set[psutil.Process]:
    """Return the processes that this process has started and that live."""
    return set(filter(alive, psutil.Process().children(recursive=True)))


def alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def connection_files() -> set[Path]:
    return set(Path(os.environ["JUPYTER_RUNTIME_DIR"]).glob("kernel-*.json"))


def belongings() -> set[object]:
    """Return this process's descriptors, threads (zmq's too), tasks, and connection files.

    The threads of a loop's executor are the loop's.
    """
    gc.collect()
    executor = {
        thread.native_id for thread in threading.enumerate() if thread.name.startswith("asyncio_")
    }
    threads = {int(name) for name in os.listdir("/proc/self/task")} - executor
    return {*_descriptors(), *threads, *asyncio.all_tasks(), *connection_files()}


def _descriptors() -> Iterator[tuple[str, str]]:
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listdir used
            yield number, os.readlink(f"/proc/self/fd/{number}")
