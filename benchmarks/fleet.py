"""The kernels of one run, all alive at once, and the rounds in which they take turns."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import zmq
from harness import Kernel, KernelError, KernelProcess, KernelSpec
from report import Row, Series


class Fleet:
    """The kernels of one run, all alive at the same time; a context manager that ends them all."""

    def __init__(self, specs: Sequence[KernelSpec], directory: Path) -> None:
        """Start nothing yet."""
        self.specs = {spec.name: spec for spec in specs}
        self.directory = directory
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.absent: dict[str, str] = {}
        self._kernels: dict[str, Kernel] = {}
        self._prepare: Callable[[Kernel], object] = lambda _: None

    def __enter__(self) -> Fleet:
        """Start every kernel; one that will not start is noted in `absent`."""
        try:
            for name in self.specs:
                self.restart(name)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every kernel."""
        self._close()

    @property
    def names(self) -> list[str]:
        """The kernels that are running."""
        return list(self._kernels)

    def __getitem__(self, name: str) -> Kernel:
        """The running kernel of that name, the new one after a restart.

        Raises:
            KernelError: It is absent.
        """
        if name not in self._kernels:
            raise KernelError(self.absent[name])
        return self._kernels[name]

    def renew(self, prepare: Callable[[Kernel], object] = lambda _: None) -> None:
        """Replace every kernel by a fresh one in the state that a measure needs.

        A namespace that has seen a thousand cells holds `_1` to `_1000`, and a completion takes
        twice as long in it: measures must not depend on those that ran before them.

        Args:
            prepare: Called with each kernel, now and after every later restart.
        """
        self._prepare = prepare
        for name in self.names:
            self.restart(name)

    def restart(self, name: str, *, bare: bool = False) -> None:
        """Replace a kernel with a fresh, prepared process; absent if three attempts fail.

        Args:
            name: of the kernel, which is killed.
            bare: do not prepare the new one.
        """
        if name in self._kernels:
            self._kernels.pop(name).kill()
        # async-kernel 0.23 comes up with a dead iopub channel once in some forty starts.
        for _ in range(3):
            kernel = Kernel(self.specs[name], self.directory)
            try:
                kernel.start(self.context)
                if not bare:
                    self._prepare(kernel)
            except KernelError as error:
                kernel.kill()
                self.absent[name] = str(error)
            except BaseException:
                kernel.kill()
                raise
            else:
                self._kernels[name] = kernel
                self.absent.pop(name, None)
                return
            print(f"  {self.absent[name]}", file=sys.stderr)

    @contextlib.contextmanager
    def fresh(self, name: str) -> Iterator[KernelProcess]:
        """Another process of that kind, not launched yet, ended on leaving the block."""
        process = KernelProcess(self.specs[name], self.directory)
        try:
            yield process
        finally:
            process.kill()

    def _close(self) -> None:
        for kernel in self._kernels.values():
            kernel.kill()
        self._kernels.clear()
        self.context.destroy(linger=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many samples a row takes of each kernel.

    A kernel that is slow (a second per interrupt, fifteen per flood) would decide how long the
    whole run takes; it leaves the row early, and its cell states the smaller n.

    Args:
        n: Samples per kernel.
        seconds: A kernel leaves the row after this much time of its own ...
        at_least: ... but not with fewer samples than this.
        patience: Unanswered samples after which a kernel leaves the row.
    """

    n: int
    seconds: float = 20.0
    at_least: int = 5
    patience: int = 2

    def finished(self, series: Series, spent: float) -> bool:
        """Whether a kernel needs no more samples in this row."""
        enough = series.n >= min(self.n, self.at_least)
        return (
            series.n >= self.n
            or series.unanswered >= self.patience
            or (spent > self.seconds and enough)
        )


Take = Callable[[str], Sequence[float | None]]
"""Takes samples from the kernel of that name, in seconds; None stands for "no answer"."""


def interleave(fleet: Fleet, row: Row, names: Sequence[str], plan: Plan, take: Take) -> None:
    """Fill a row in rounds, in random order, so that a noisy moment hits all kernels alike."""
    row.absent.update(set(names) - set(fleet.names))
    waiting = {name: 0.0 for name in names if name in fleet.names}
    while waiting:
        for name in random.sample(sorted(waiting), len(waiting)):
            series = row.series.setdefault(name, Series())
            started = time.perf_counter()
            try:
                for value in take(name):
                    series.add(value)
            except KernelError as error:
                print(f"  {error}; restarted", file=sys.stderr)
                series.unanswered += 1
                fleet.restart(name)
            waiting[name] += time.perf_counter() - started
            if name not in fleet.names or plan.finished(series, waiting[name]):
                del waiting[name]
