"""A kernel's timeline: when a cell commits, when it is rolled back, where the store is.

    before a cell    `Savepoints.begin_cell`    the policy; what ran outside is committed first
    its statements   `Savepoints.note_code`
    it has ended     `Savepoints.roll_back`     before the reply, if the policy says so
    idle is out      `Savepoints.end_cell`      the commit

A commit that fails is no failure of the cell: the user is told, and the next one tries again.

What tracks and stores (`assembly`) is imported when the timeline opens, which the first cell does
once its busy status is out: it would be a fifth of the kernel's start. Not before, while clients
ask much: jupyter console takes the idle status of what it asked last for that of a cell that does
not begin within 50 ms, and then shows none of its prompts.

Threads: the main thread, but `note_code` and `suspect_all`, which any thread may call.
"""

from __future__ import annotations

import ast
import asyncio
import threading
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import TraitError, validate
from traitlets.utils.importstring import import_item

from ..exceptions import CorruptStore, QuotaExceeded, TimelineNotAvailable
from ..state.view import NamespaceView, is_output
from .audit import Audit
from .commit import CellInfo, Commit
from .options import Options, only_at_start
from .transaction import Policy, Unsaved, policy_named

if TYPE_CHECKING:
    from ..state.liverefs import LiveReferences
    from ..state.process import Participants
    from .assembly import Assembly
    from .checkout import Base, Restored
    from .expiry import Expiry
    from .keeping import Sessions
    from .store import Store
    from .timeline import Timeline


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell.

    Attributes:
        policy: the one that held.
        commit: number of its commit; None if it has none.
        restored: the rollback; None if there was none.
    """

    policy: Policy
    commit: int | None = None
    restored: Restored | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return ``execute_reply.metadata.savepoint.transaction``."""
        if self.restored is None:
            outcome = "committed" if self.commit is not None else "not_committed"
            return {"policy": self.policy.value, "outcome": outcome}
        return {
            "policy": self.policy.value,
            "outcome": "rolled_back",
            "changed": sorted({*self.restored.changed, *self.restored.removed}),
            "restored": list(self.restored.changed),
            "removed": list(self.restored.removed),
            "unrestorable": dict(self.restored.unrestorable),
            "recreated": list(self.restored.recreated),
        }


class Savepoints(Options):
    """Commits of the cells of a kernel."""

    def __init__(
        self,
        shell: Any,
        connection_key: Callable[[], bytes],
        notice: Callable[[str], None],
        busy: Callable[[], bool],
        **kwargs: Any,
    ) -> None:
        self._in_use: dict[str, Any] = {}
        """Values of options that the open timeline was made with."""
        super().__init__(**kwargs)
        self._shell = shell
        self._audit = Audit(self._known_timeline, busy, self._found_by_audit)
        self._connection_key = connection_key
        self._notice = notice
        self._assembly: Assembly | None = None
        self._expiry: Expiry | None = None
        self._failed: str | None = None
        self._our_threads: set[threading.Thread] = set()
        self.view = NamespaceView(shell)
        self._base: Base | None = None
        self._told: dict[str, str] = {}
        self._told_error = ""
        self._untold: list[str] = []
        """What is to be said with the next cell: nobody sees what a starting kernel says."""
        self.pinned: set[int] = set()
        """Numbers of commits that a transaction may go back to."""
        self.navigated = False
        """True if the running cell moved HEAD: it is no change of its own then."""

    @validate(*Options.class_traits(at_start=True))
    def _keep_at_start(self, proposal: Any) -> Any:
        name, value = proposal.trait.name, proposal.value
        if value != self._in_use.get(name, value):
            raise TraitError(only_at_start(name, value))
        return value

    # -- life

    @property
    def timeline(self) -> Timeline:
        """The timeline; opened when first asked for.

        Raises:
            TimelineNotAvailable: it is switched off, or could not be opened.
        """
        if not self.enabled:
            raise TimelineNotAvailable("the timeline is switched off (Savepoints.enabled)")
        self.start()
        if self._assembly is None:
            raise TimelineNotAvailable(f"there is no timeline: {self._failed}")
        return self._assembly.timeline

    @property
    def decided(self) -> bool:
        """True once it is known whether there is a timeline: nothing needs to be opened."""
        return not self.enabled or self._assembly is not None or self._failed is not None

    @property
    def available(self) -> bool:
        """True while cells are committed."""
        return self.enabled and self._failed is None

    def start(self) -> None:
        """Open the timeline, once, and restore the session if that is asked for."""
        if self.decided:
            return
        assert threading.current_thread() is threading.main_thread()
        try:
            assemble = import_item(f"{__package__}.assembly.assemble")
            self._assembly = assemble(
                view=self.view,
                compile_cell=self._compile_cell,
                interrupts=self._shell.interrupts,
                limits=self,
                connection_key=self._connection_key(),
                directory=self.directory,
                session=self.session,
                durability=self.durability,
                quota=self.quota or None,
                references=lambda: self.references,
                track_pages=self.track_pages,
            )
            self._in_use = self.trait_values(at_start=True)
            self._untold += self._assembly.notices
            self._start_expiry()
            self._our_threads = set(threading.enumerate())
        except Exception as error:
            self._failed = str(error)
            self._untold.append(self._logged("There will be no timeline", error))
            return
        if self.restore_on_start:
            self._restore_session(self._assembly.timeline)

    def _restore_session(self, timeline: Timeline) -> None:
        if timeline.log.previous is None:
            return
        try:
            restored = timeline.checkout(timeline.log.previous, strict=False)
        except Exception as error:
            self._untold.append(self._logged("The session could not be restored", error))
            return
        lost = {n: why for n, why in restored.unrestorable.items() if not is_output(n)}
        if lost:
            lines = "".join(f"  {name}: {reason}\n" for name, reason in lost.items())
            self._untold.append(f"Restored, but for what could not be saved or loaded:\n{lines}")

    def _start_expiry(self) -> None:
        module = f"{__package__}.expiry"
        limits = import_item(f"{module}.Limits")
        expiry: Expiry = import_item(f"{module}.Expiry")(
            self.sessions.root, lambda: limits(self.keep_days, self.keep_named_days), self.log
        )
        expiry.start(self.expiry_after)
        self._expiry = expiry

    @property
    def sessions(self) -> Sessions:
        """The sessions in the directory, whether or not there is a timeline."""
        sessions: Sessions = import_item(f"{__package__}.keeping.Sessions")(
            self.directory, None if self._assembly is None else self._assembly.session
        )
        return sessions

    def flush(self) -> None:
        """Wait until all commits are on disk. Any thread."""
        if self._assembly is not None:
            self._assembly.store.flush()

    def close(self, restart: bool) -> None:
        """Write what is left."""
        if self._expiry is not None:
            self._expiry.stop()
        if self._assembly is None:
            return
        kept = restart or bool(self._assembly.timeline.log.checkpoints)
        try:
            self._assembly.session.close(keep=kept)
        except OSError:
            self.log.exception("The latest commits are lost")
        self._assembly = None
        self._failed = "the kernel is shutting down"

    def _opened(self) -> Assembly:
        assert self._assembly is not None
        return self._assembly

    @property
    def store(self) -> Store:
        """The store behind the timeline."""
        return self._opened().store

    @property
    def participants(self) -> Participants:
        """What takes part in commits and rollbacks besides the namespace."""
        return self.timeline.participants

    @property
    def live_references(self) -> LiveReferences:
        """The objects that are not saved.

        Raises:
            TimelineNotAvailable: nothing is.
        """
        assert self.timeline is not None  # which opens it
        return self._opened().references

    @property
    def tracks_pages(self) -> bool:
        """True if large arrays are not hashed as a whole each time."""
        return self._opened().pages.active

    @property
    def location(self) -> Path:
        """The directory of the store."""
        return self._opened().session.directory

    @property
    def next_commit(self) -> int | None:
        """Number of the commit that the running cell will make; None if there need not be one."""
        return self.timeline.log.next_number if self.available and not self.navigated else None

    # -- cells

    def policy_for(self, metadata: Mapping[str, Any], code: str) -> Policy:
        """Return the policy of a cell.

        Args:
            metadata: ``metadata.savepoint`` of the request.
            code: the cell, which may begin with ``%%transaction``.

        Raises:
            ValueError: there is no such policy.
        """
        for number, line in enumerate(code.lstrip().splitlines()):
            words = line.split()
            if words[:1] == ["%%transaction"]:
                if number:
                    raise ValueError("%%transaction must be the first line of a cell")
                return policy_named(words[1] if words[1:] else Policy.ROLLBACK_ON_FAILURE.value)
            if not line.startswith("%%"):
                break
        return policy_named(metadata.get("transaction", self.transaction))

    def begin_cell(self, policy: Policy) -> None:
        """Get ready for a cell that may have to be rolled back."""
        self.start()
        while self._untold:
            self._notice(self._untold.pop(0))
        self.navigated = False
        if self._assembly is not None:
            self._assembly.timeline.note_modules()
        self._suspect_what_runs_outside()
        if policy.may_roll_back:
            try:
                timeline = self.timeline
            except TimelineNotAvailable as error:
                raise TimelineNotAvailable(
                    f"{error}; so nothing can be rolled back, and the policy is {policy.value}. "
                    "With %%transaction commit_always as its first line it runs all the same; "
                    "%transaction commit_always in there is for the cells to come"
                ) from error
            self._base = timeline.prepare_rollback()
            timeline.forget_suspects()

    def note_code(self, code: types.CodeType) -> None:
        """Take note of code that a cell runs, or is about to run."""
        if self._assembly is not None:
            self._assembly.timeline.note_code(code)

    def note_expression(self, expression: str) -> None:
        """Take note of an expression that is evaluated in the namespace."""
        with suppress(SyntaxError, ValueError):  # which evaluating it reports
            self.note_code(compile(expression, "<expression>", "eval", dont_inherit=True))

    def suspect_all(self, reason: str) -> None:
        """Take note that something ran outside cells."""
        if self._assembly is not None:
            self._assembly.timeline.suspect_all(reason)

    def roll_back(self, policy: Policy) -> Outcome:
        """Undo the cell that has just ended."""
        assert self._base is not None
        try:
            return Outcome(policy, restored=self.timeline.roll_back(self._base, over=True))
        finally:
            self._base = None

    def end_cell(self, cell: CellInfo) -> Commit | None:
        """Commit the cell that has ended; raises neither an Exception nor KeyboardInterrupt."""
        self._base = None
        if not self.available:
            return None
        self._shell.interrupts.forget()  # one that came too late for the cell is not for this
        try:
            self._suspect_what_runs_outside()
            self._tell_of_losses()
            commit = self.timeline.commit(
                "cell", cell, full=self.verify == "all", only_changes=self.navigated
            )
            self.timeline.forget_suspects()
            if self.unsaved == Unsaved.HARD_ERROR.value:
                self._tell_of_unsaved()
            if self.store.over_quota:
                self._make_room()
            if self.audit:
                self._audit.cell_ended(self.audit_after)
            self.settle()
        except QuotaExceeded as error:
            self._notice(f"This cell could not be committed: {error}\n")
            with suppress(OSError, CorruptStore):  # which other commits tell
                self.timeline.give_up()
            return None
        except Exception as error:
            self._report("This cell could not be committed", error)
            return None
        except KeyboardInterrupt:
            self._shell.interrupts.disarm()
            self.suspect_all("a commit was interrupted")
            names = ", ".join(sorted(self.timeline.saving))
            self._notice(
                f"The commit of this cell was interrupted while {names} was being saved. The next "
                "cell's commit will have what this one did. If saving it never ends, delete it\n"
            )
            return None
        return commit

    def _known_timeline(self) -> Timeline | None:
        return None if self._assembly is None else self._assembly.timeline

    def _found_by_audit(self, names: tuple[str, ...]) -> None:
        self.log.info("Changed by no cell that is known to touch them: %s", ", ".join(names))

    def _make_room(self) -> None:
        """Remove the older half of what can be spared, and again, until the quota is kept."""
        removed = freed = 0
        while self.store.over_quota and (spare := self.timeline.spare(self.pinned)):
            half = spare[: len(spare) // 2 + 1]
            freed += self.timeline.log.remove(half)
            removed += len(half)
        if removed:
            self._notice(
                f"The session was larger than Savepoints.quota ({self.quota / 1e9:.1f} GB): its "
                f"{removed} oldest commits without a name are removed, {freed / 1e6:.0f} MB freed\n"
            )

    def _tell_of_unsaved(self) -> None:
        """Name the variables whose values can't be saved; those known already, not again."""
        unsaved = {n: gone for n, gone in self.timeline.unsaved.items() if not is_output(n)}
        fresh = [name for name, gone in unsaved.items() if self._told.get(name) != gone.key]
        self._told = {name: gone.key for name, gone in unsaved.items()}
        if fresh:
            lines = "".join(f"  {name}: {unsaved[name]}\n" for name in fresh)
            self._notice(f"These values can't be saved, so no commit has them:\n{lines}")

    def settle(self) -> None:
        """With durability ``sync``, wait for the disk; say if it fails, or works again."""
        with suppress(OSError):  # which the store remembers
            self.store.settle()
        error = str(self.store.error or "")
        if error and error != self._told_error:
            self._notice(
                f"Commits can't be written to {self.location}: {error}. They are in memory, and it "
                "is tried again; what is not written when the kernel ends is lost\n"
            )
        elif self._told_error and not error:
            self._notice(f"Commits are written to {self.location} again\n")
        self._told_error = error

    def _tell_of_losses(self) -> None:
        """Say what the disk did not take; the next commit stores all it needs."""
        losses = self.store.take_losses()
        if losses:
            self.timeline.store_again()
            self._notice(
                f"{len(losses)} pieces of earlier commits could not be written to "
                f"{self.location}: {losses[-1].reason}. The next commit has everything again\n"
            )

    def _suspect_what_runs_outside(self) -> None:
        if self._assembly is None:
            return
        timeline = self._assembly.timeline
        for thread in threading.enumerate():
            if thread not in self._our_threads and not _is_of_ipython(thread):
                timeline.suspect_all(f"the thread {thread.name!r} may change anything")
        for task in asyncio.all_tasks(asyncio.get_event_loop_policy().get_event_loop()):
            frame = getattr(task.get_coro(), "cr_frame", None)
            if frame is not None and frame.f_globals is self._shell.user_ns:
                timeline.suspect_all(f"the task {task.get_name()!r} may change anything")

    def transform(self, text: str) -> str:
        """Turn a cell into Python; transformers are users' code, too, and may raise."""
        transformed: str = self._shell.transform_cell(text)
        return transformed

    def _compile_cell(self, text: str) -> types.CodeType | None:
        try:
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            transformed = self.transform(text)
            code: types.CodeType = compile(transformed, "<cell>", "exec", flags, dont_inherit=True)
        except Exception:
            return None
        return code

    def _report(self, what: str, error: Exception) -> None:
        self._notice(self._logged(what, error))

    def _logged(self, what: str, error: Exception) -> str:
        self.log.exception(what)
        return f"{what}: {type(error).__name__}: {error}\n"


def _is_of_ipython(thread: threading.Thread) -> bool:
    """Tell whether a thread is no user's.

    IPython makes its history's anew after each fork; zmq has one from the first large message on.
    """
    module = type(thread).__module__.partition(".")[0]
    return hasattr(thread, "pydev_do_not_trace") or module in {"IPython", "ipykernel", "zmq"}
