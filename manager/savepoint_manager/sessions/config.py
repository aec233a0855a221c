"""What a pool keeps and how its kernels are started: values, checked where they are written down.

Threads: any.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from savepoint_kernel.kernelspec import KERNEL_NAME

PathName = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """Options of a `SessionPool`. Times are seconds; None means never, or no limit.

    Attributes:
        min_idle: kernels kept ready.
        max_idle: kernels that may wait to be taken, at most; default: ``max_sessions``.
        max_sessions: kernels there may be at once: in use, ready, starting, and ending.
        acquire_timeout: how long `acquire` waits for a session; 0: not at all.
        idle_timeout: a ready kernel beyond ``min_idle`` that nobody took for so long is ended.
        max_age: a ready kernel that is older is replaced. One in use is left alone.
        recycle_after_executions: a kernel that ran so many cells is not used for a further session.
        warmup_code: runs in every new kernel; its names are there from the start.
        preload: modules every new kernel imports before that.
        lib_paths: directories put first in ``sys.path``, before the warm-up.
        reset_on_release: a released session's kernel is ended and a fresh one takes its place.
            False: it is kept for the next session and only its names are cleared. Modules, threads,
            the environment, files and the timeline stay as they are, so the users of such a pool
            have to trust each other.
        health_interval: how often ready kernels are asked for a sign of life; those that give none
            within ten seconds are replaced. Death is noticed at once.
        refill_delay: how long a ready kernel that was taken is not replaced, so that starting its
            successor does not slow down who took it. While the machine is busy it takes longer.
        start_timeout: how long a kernel may take to start, and then to run its warm-up.
        kernel_name: the kernelspec. ``preload``, ``lib_paths``, clear and evaluate are for Python.
        env: variables for the kernels, on top of those of this process.
        cwd: directory of the kernels; default: that of this process.
    """

    min_idle: int = 1
    max_idle: int | None = None
    max_sessions: int = 10
    acquire_timeout: float | None = 30.0
    idle_timeout: float | None = 300.0
    max_age: float | None = 3600.0
    recycle_after_executions: int | None = None
    warmup_code: str = ""
    preload: Sequence[str] = ()
    lib_paths: Sequence[PathName] = ()
    reset_on_release: bool = True
    health_interval: float = 30.0
    refill_delay: float = 1.0
    start_timeout: float = 60.0
    kernel_name: str = KERNEL_NAME
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: PathName | None = None

    def __post_init__(self) -> None:
        for name in ("preload", "lib_paths"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a list, not the string {getattr(self, name)!r}")
        for module in self.preload:
            if not all(part.isidentifier() for part in module.split(".")):
                raise ValueError(f"preload: {module!r} can't be the name of a module")
        self._check_numbers()

    def _check_numbers(self) -> None:
        least = {"min_idle": 0, "max_idle": 0, "max_sessions": 1, "recycle_after_executions": 1}
        positive = {"health_interval", "start_timeout"}
        for option in fields(self):
            name, value = option.name, getattr(self, option.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isnan(value) or value < least.get(name, 0) or (name in positive and not value):
                raise ValueError(f"{name} can't be {value!r}")
        if not self.min_idle <= self.most_idle <= self.max_sessions:
            raise ValueError(
                "min_idle <= max_idle <= max_sessions must hold, not "
                f"{self.min_idle} <= {self.most_idle} <= {self.max_sessions}"
            )

    @property
    def most_idle(self) -> int:
        """``max_idle``, or what it is by default."""
        return self.max_sessions if self.max_idle is None else self.max_idle


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start one kernel: all that a kernel of the pool is made from.

    Attributes:
        kernel_name: the kernelspec.
        warmup_code: see `PoolConfig`.
        preload: see `PoolConfig`.
        lib_paths: existing directories.
        start_timeout: see `PoolConfig`.
        env: see `PoolConfig`.
        cwd: see `PoolConfig`.
    """

    kernel_name: str
    warmup_code: str
    preload: tuple[str, ...]
    lib_paths: tuple[Path, ...]
    start_timeout: float
    env: Mapping[str, str]
    cwd: PathName | None

    def arguments(self) -> dict[str, object]:
        """Return the arguments of ``KernelManager.start_kernel``.

        ``preload`` is not among them: kernelspecs have no word for it, so `preparation` imports the
        modules once the kernel runs. A provisioner that can do it earlier would be told here.
        """
        env = {**os.environ, **self.env}
        # The notebook this process runs for. A kernel of ours would take its timeline.
        env.pop("JPY_SESSION_NAME", None)
        if self.lib_paths:
            inherited = env.get("PYTHONPATH")
            paths = [*map(str, self.lib_paths), *([inherited] if inherited else [])]
            env["PYTHONPATH"] = os.pathsep.join(paths)
        arguments: dict[str, object] = {"env": env}
        if self.cwd is not None:
            arguments["cwd"] = os.fspath(self.cwd)
        return arguments
