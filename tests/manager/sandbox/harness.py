"""Kernels in sandboxes, as a front end has them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from jupyter_core.paths import jupyter_runtime_dir

from savepoint_kernel.kernelspec import kernel_spec
from tests.kernel.harness import Kernel
from tests.manager.pool.harness import connected, environ


def manager_of(env: dict[str, str] | None = None, **config: Any) -> KernelManager:
    """Return a manager of a sandboxed kernelspec, with options of its provisioner."""
    spec = kernel_spec(sandbox=True, env=env)
    spec["metadata"]["kernel_provisioner"]["config"].update(config)
    connection_file = Path(jupyter_runtime_dir(), f"kernel-{uuid.uuid4()}.json")
    manager = KernelManager(connection_file=str(connection_file))
    manager._kernel_spec = KernelSpec(**spec)
    return manager


@contextmanager
def sandboxed(
    cwd: Path | None = None, env: dict[str, str] | None = None, **config: Any
) -> Iterator[Kernel]:
    """Start a kernel in a sandbox, and end it afterwards."""
    manager = manager_of(**config)
    manager.start_kernel(cwd=str(cwd) if cwd else None, env=env or environ())
    try:
        with connected(manager) as kernel:
            yield kernel
    finally:
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)


def root_of(manager: KernelManager) -> Path:
    """Return the directory of a session."""
    return Path(manager.ip).parents[1]


def processes_of(pid: int) -> list[int]:
    """Return the processes from the front end's child to the kernel, which is the last."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
