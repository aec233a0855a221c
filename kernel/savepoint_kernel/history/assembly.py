"""The parts of a timeline, put together. `savepoints` imports this when it opens one.

Threads: the main thread.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..activity import COMPLETIONS
from ..exceptions import SavingTimeout
from ..interrupts import Interrupts, interrupt_main_thread
from ..state.imager import Limits
from ..state.libraries import builtin_participants
from ..state.liverefs import LiveReferences
from ..state.modules import ModuleAttributes
from ..state.pages import PageDigests
from ..state.process import Participants
from ..state.tracker import Tracker
from ..state.view import NamespaceView
from ..watchdog import Watchdog
from .present import Present
from .sessions import SessionStore, open_store
from .store import Durability, Store
from .timeline import Timeline


@dataclass(frozen=True, slots=True)
class Assembly:
    """A timeline and its store.

    Attributes:
        timeline: the timeline.
        session: where its store is.
        references: the values that commits don't have.
        pages: hashes its buffers.
        notices: what the user is to be told.
    """

    timeline: Timeline
    session: SessionStore
    references: LiveReferences
    pages: PageDigests
    notices: Sequence[str]

    @property
    def store(self) -> Store:
        """The store."""
        return self.session.store


def assemble(
    view: NamespaceView,
    compile_cell: Callable[[str], types.CodeType | None],
    interrupts: Interrupts,
    limits: Limits,
    connection_key: bytes,
    *,
    directory: str,
    session: str,
    durability: Durability,
    quota: int | None,
    references: Callable[[], int],
    track_pages: bool,
) -> Assembly:
    """Open the store of a session and make a timeline on it.

    Args:
        view: what is tracked.
        compile_cell: compiles the text of a cell; None if it can't be.
        interrupts: what holds interrupts off, or lets them end a look.
        limits: see `imager.Limits`.
        connection_key: the kernel's, which names a session without a name.
        directory: see `Savepoints`, as for the rest.
        session: its name.
        durability: when commits are on disk.
        quota: bytes it may take there; None for no limit.
        references: tells how many live references users may put.
        track_pages: see `pages`, where the system can.

    Raises:
        OSError: the directory can't be written to.
    """
    opened, notices = open_store(directory, session, connection_key, durability, quota)
    live = LiveReferences(view.namespace, references, interrupts.raising_late)
    pages = (PageDigests.open() if track_pages else None) or PageDigests()
    watchdog = Watchdog(interrupt_main_thread)

    @contextmanager
    def guard(seconds: float) -> Iterator[None]:
        late = SavingTimeout(
            f"saving it took longer than {seconds:g} s (Savepoints.saving_timeout)"
        )
        with watchdog.limit(seconds, late), interrupts.raising_late():
            yield

    view.modules = ModuleAttributes(view.namespace, lambda: guard(limits.saving_timeout))
    tracker = Tracker(view.namespace, compile_cell, live, guard, limits, pages.digests)
    participants = Participants(builtin_participants())
    present = Present(view, tracker, participants, live, opened.store.put, COMPLETIONS)
    timeline = Timeline(present, opened.store, interrupts.held)
    return Assembly(
        timeline, opened, live, pages, (*notices, *(f"{note}\n" for note in opened.store.notes))
    )
