"""Which request does output belong to? The parent message of each thread.

ipykernel keeps the parent in context variables with a process-wide fallback, the last request of
any kind, which a thread started by user code falls back to; there, a completion request makes such
a thread's output land in no cell at all. Here the fallback is only ever set by cells, service
threads set their own context, and a thread started by user code keeps the cell that started it.

Threads: `adopt` sets the calling thread's parent; `inherit_across_threads` is called once.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from jupyter_client.session import extract_header

if TYPE_CHECKING:
    from .kernel import SavepointKernel

Message = dict[str, Any]

_ATTRIBUTE = "_savepoint_parent"


def adopt(kernel: SavepointKernel, ident: Any, parent: Message) -> None:
    """Make ``parent`` the parent of what the calling thread (or context) publishes."""
    kernel._shell_parent_ident.set(ident)
    kernel._shell_parent.set(parent)
    shell = kernel.shell
    shell._parent_header.set(parent)
    header = extract_header(parent)
    # Not sys.stdout: the user may have replaced it, for now.
    for publisher in (shell.displayhook, shell.display_pub, kernel._stdout, kernel._stderr):
        publisher._parent_header.set(header)


def inherit_across_threads(kernel: SavepointKernel) -> None:
    """Let every thread started from now on publish for the cell that started it.

    Python threads begin with an empty context, so the parent is handed over at `Thread.start` and
    adopted before `Thread.run`.
    """
    start = threading.Thread.start
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def start_with_parent(thread: threading.Thread) -> None:
        parent = kernel.get_parent("shell")
        if parent:
            ident = kernel._get_shell_context_var(kernel._shell_parent_ident)
            setattr(thread, _ATTRIBUTE, (ident, parent))
        start(thread)

    def bootstrap_with_parent(thread: threading.Thread) -> None:
        inherited = thread.__dict__.pop(_ATTRIBUTE, None)
        if inherited is not None:
            adopt(kernel, *inherited)
        bootstrap(thread)

    threading.Thread.start = start_with_parent  # type: ignore[method-assign,assignment]
    threading.Thread._bootstrap_inner = bootstrap_with_parent  # type: ignore[attr-defined]
