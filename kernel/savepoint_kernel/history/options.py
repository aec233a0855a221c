"""What users can configure of the timeline: ``c.Savepoints``, ``%config Savepoints``.

Traits tagged ``at_start`` can't change while the kernel runs.

Threads: none of its own.
"""

from __future__ import annotations

from traitlets import Bool, Enum, Float, Int, Unicode
from traitlets.config import LoggingConfigurable

from .transaction import ALIASES, POLICIES, Policy, Unsaved


def only_at_start(name: str, value: object) -> str:
    """Say how an option is set that can't change while the kernel runs."""
    return (
        f"{name} can't change while the kernel runs: start it with --Savepoints.{name}={value}, or "
        f"write c.Savepoints.{name} = {value!r} into ipython_kernel_config.py"
    )


class Options(LoggingConfigurable):
    """Options of `savepoints.Savepoints`."""

    enabled = Bool(True, help="Commit every cell. Without it there is no undo.").tag(
        config=True, at_start=True
    )
    transaction = Enum(
        [*POLICIES, *ALIASES],
        default_value=Policy.COMMIT_ALWAYS.value,
        help="""What becomes of a cell's effects: commit_always; rollback_on_failure (an error, an
        interrupt or a timeout undoes the cell); rollback_always; explicit (%begin, %commit and
        %rollback decide). A cell's metadata and %%transaction go before it.""",
    ).tag(config=True)
    verify = Enum(
        ["touched", "all"],
        default_value="touched",
        help="""After a cell, look at what its code can have touched, or at all names (0.1 s per
        gigabyte; where track_pages works, 0.1 ms per gigabyte of arrays that did not change).""",
    ).tag(config=True)
    durability = Enum(
        ["async", "sync", "memory"],
        default_value="async",
        help="""async: a commit is on disk at most a second after the cell, and at the end. sync:
        before the next cell. memory: never; it ends with the kernel.""",
    ).tag(config=True, at_start=True)
    quota = Int(
        10_000_000_000,
        min=0,
        help="""Bytes a session may take on disk. Over it, the oldest commits that have no name go
        first. 0 means no limit.""",
    ).tag(config=True, at_start=True)
    keep_days = Float(
        30.0,
        min=0.0,
        help="""Days since its last commit that the session of a notebook is kept. 0 means for
        ever.""",
    ).tag(config=True)
    keep_named_days = Float(
        0.0,
        min=0.0,
        help="""The same for a session that you have named (Savepoints.session), and for one with a
        checkpoint that has a name. 0 means for ever.""",
    ).tag(config=True)
    expiry_after = Float(
        60.0,
        min=0.0,
        help="""Seconds from the start of a kernel until it removes sessions that were kept for so
        long. One kernel a day does.""",
    ).tag(config=True, at_start=True)
    audit = Bool(
        True,
        help="Look at the names that no cell seems to have touched while the kernel idles.",
    ).tag(config=True)
    audit_after = Float(1.0, min=0.0, help="Seconds of idleness after which that begins.").tag(
        config=True
    )
    track_pages = Bool(
        True,
        help="""Let Linux (6.7 and newer) tell which pages of large arrays were written to, rather
        than hash all of them. The first write to a page that it watches takes 1.4 µs.""",
    ).tag(config=True, at_start=True)
    saving_timeout = Float(
        60.0,
        min=0.0,
        help="""Seconds that pickling the values of names that share something may take. A value
        that takes longer is not saved, and not tried again until a cell touches it. 0 means no
        limit.""",
    ).tag(config=True)
    value_limit = Int(
        0,
        min=0,
        help="""Bytes that the values of names that share something may have together. A larger
        value is not saved. 0 means no limit but the quota.""",
    ).tag(config=True)
    references = Int(10_000, min=0, help="Objects that savepoint.refs.put may hold at a time.").tag(
        config=True
    )
    unsaved = Enum(
        [Unsaved.WARN_DROP.value, Unsaved.HARD_ERROR.value],
        default_value=Unsaved.WARN_DROP.value,
        help="""After a cell that leaves a value that can't be saved: warn_drop commits the others
        and lists it (%timeline, %refs); hard_error also says so on stderr. The cell has replied by
        then, and the others are safe, so neither undoes it.""",
    ).tag(config=True)
    session = Unicode(
        help="""Name of the session, a directory of the store. Default: the notebook's path where
        the server tells it, else one for each kernel, restarts included."""
    ).tag(config=True, at_start=True)
    directory = Unicode(
        help="Where sessions are kept. Default: savepoint/sessions in the Jupyter data directory."
    ).tag(config=True, at_start=True)
    restore_on_start = Bool(
        False, help="Restore the newest commit of the session when the kernel starts."
    ).tag(config=True, at_start=True)
