"""Making a kernel and what its first user expects: library paths, imports, warm-up, a clean start.

All of it is run silently: no execution count, no history, no commit. The commit made at the end is
where the first `undo` goes back to; without it an undo of the first cell would take the warm-up
along.

Threads: one event loop.
"""

from __future__ import annotations

import asyncio

import zmq.asyncio

from ..exceptions import KernelDied, KernelStartTimeout, WarmupFailed
from .config import Launch
from .kernel import Kernel
from .remote import call

CHECKPOINT = "savepoint_checkpoint_request"

ATTEMPTS = 3
"""How often to start a kernel that ends before it answers. jupyter_client chooses ports that are
free, and somebody else may have them when the kernel binds them."""

NOT_WANTED = "was ended: it could not be made ready"


async def make_kernel(launch: Launch, context: zmq.asyncio.Context) -> Kernel:
    """Start a kernel and make it ready.

    Args:
        launch: how.
        context: for its sockets.

    Raises:
        jupyter_client.kernelspec.NoSuchKernel: there is no such kernelspec.
        KernelStartTimeout: it took too long; it was killed.
        WarmupFailed: what it was to run first raised; it was ended.
        KernelDied: it ended by itself.
        UnsupportedByKernel: it is no Python, and is to import something.
    """
    kernel = await _start(launch, context)
    try:
        await asyncio.wait_for(prepare(kernel), launch.start_timeout)
    except BaseException as error:
        await kernel.stop(NOT_WANTED, now=True)
        if isinstance(error, asyncio.TimeoutError):
            raise _timeout(launch, "has not ended its warm-up") from None
        raise
    return kernel


async def _start(launch: Launch, context: zmq.asyncio.Context) -> Kernel:
    for left in reversed(range(ATTEMPTS)):
        kernel = Kernel(launch, context)
        try:
            await asyncio.wait_for(kernel.start(), launch.start_timeout)
            break
        except BaseException as error:
            await kernel.stop(NOT_WANTED, now=True)
            if isinstance(error, asyncio.TimeoutError):
                raise _timeout(launch, "does not answer") from None
            if not (left and isinstance(error, KernelDied)):
                raise
    return kernel


def _timeout(launch: Launch, what: str) -> KernelStartTimeout:
    return KernelStartTimeout(
        f"A kernel {launch.kernel_name!r} {what} after {launch.start_timeout:g} s (start_timeout); "
        "it was killed."
    )


async def prepare(kernel: Kernel) -> None:
    """Put its library paths first, import, run the warm-up, and commit what is there then.

    Raises:
        WarmupFailed: something raised.
        KernelDied: it ended.
        UnsupportedByKernel: it is no Python, and is to import something.
    """
    launch = kernel.launch
    cells = []
    if launch.lib_paths or launch.preload:
        kernel.require(kernel.is_python, "lib_paths and preload")
        cells.append(call("prepare", [str(path) for path in launch.lib_paths], launch.preload))
    if launch.warmup_code:
        cells.append(launch.warmup_code)
    if not cells:
        return
    for cell in cells:
        reply = await kernel.run_silently(cell)
        if reply["status"] != "ok":
            raise WarmupFailed(reply["ename"], reply["evalue"], tuple(reply["traceback"]))
    if kernel.is_savepoint:
        await kernel.call(CHECKPOINT, {"message": "warm-up", "policy": "warn_drop"})
