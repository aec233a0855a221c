"""What is measured of a kernel: each function takes the samples of one group of rows."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import psutil  # type: ignore[import-untyped]
from fleet import Fleet, Plan, interleave
from harness import Interrupt, Kernel, KernelError, Message, is_idle, stamp_in
from report import Row, Series, Target

NO_SLOWER = {"ipykernel": 0.6, "async-kernel": 1.0}


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measure needs: the kernels, and how many samples the user asked for."""

    fleet: Fleet
    n: int

    def plan(self, share: float = 1.0, at_least: int = 1) -> Plan:
        """A plan for `share` times the usual number of samples, and a quarter second for each."""
        n = max(at_least, round(self.n * share))
        return Plan(n=n, seconds=self.n * 0.24, at_least=max(1, self.n // 10))

    def fill(self, row: Row, plan: Plan, take: Callable[[Kernel], Sequence[float | None]]) -> Row:
        """Fill a row with samples of every kernel and return it."""
        interleave(
            self.fleet, row, list(self.fleet.specs), plan, lambda name: take(self.fleet[name])
        )
        return row


def echo(bench: Bench) -> list[Row]:
    """`1+1`: from sending execute_request to its reply, and to its idle status.

    In bursts of ten per kernel, after one that is not counted: hot with 2 ms between requests, cool
    with 20 ms, when threads have gone to sleep and caches have been used by others.
    """

    def burst(kernel: Kernel, gap: float, to_idle: bool) -> list[float | None]:
        times: list[float | None] = []
        for _ in range(11):
            time.sleep(gap)
            started = time.perf_counter()
            msg_id = kernel.execute("1+1")
            if to_idle:
                arrived = kernel.idle(msg_id, 5.0)
                times.append(time.perf_counter() - started if arrived else None)
                kernel.reply(msg_id, 5.0)
            else:
                reply = kernel.reply(msg_id, 5.0)
                times.append(time.perf_counter() - started if reply else None)
                kernel.idle(msg_id, 5.0)
        return times[1:]

    bench.fleet.renew(lambda kernel: [kernel.run("1+1") for _ in range(20)])
    rows = []
    for label, gap in (("hot", 0.002), ("cool", 0.02)):
        for end, to_idle in (("execute_reply", False), ("idle", True)):
            target = None if to_idle else Target(ratios=NO_SLOWER)
            row = Row(f"`1+1` to {end}, {label}", target=target)
            plan = replace(bench.plan(4), seconds=60.0)
            rows.append(bench.fill(row, plan, partial(burst, gap=gap, to_idle=to_idle)))
    return rows


def first_byte(bench: Bench) -> list[Row]:
    """From a write in the cell to the client holding it; the text carries the time of the write."""
    stamp = "f't={time.perf_counter()!r};'"
    spin = "end = time.perf_counter() + .2\nwhile time.perf_counter() < end: pass"
    cases = (
        ("print, then sleep", f"print({stamp})", "time.sleep(.25)", 2.0),
        ("print, then spin 200 ms", f"print({stamp})", spin, 2.0),
        ("print(flush=True)", f"print({stamp}, flush=True)", "time.sleep(.05)", 2.0),
        ("os.write(1)", f"os.write(1, {stamp}.encode() + b'\\n')", "time.sleep(.25)", 10.0),
    )

    def write(kernel: Kernel, code: str, spins: bool) -> list[float | None]:
        # A cell that sleeps is left to itself until the kernel's next turn: it disturbs nobody.
        last = running.pop(kernel.pid, None)
        if last is not None and kernel.reply(last, 5.0) is None:
            raise KernelError(f"{kernel.spec.name}: no reply after output")
        kernel.drain()
        msg_id = kernel.execute(code)
        latency, text = None, ""
        while latency is None:
            message = kernel.published(
                2.0, lambda m: m["msg_type"] == "stream" or is_idle(m, msg_id)
            )
            if message is None or message["msg_type"] == "status":
                break
            now = time.perf_counter()
            text += message["content"]["text"]
            written = stamp_in(text)
            latency = None if written is None else now - written
        running[kernel.pid] = msg_id
        if spins:
            kernel.idle(msg_id, 5.0)
        return [latency]

    rows = []
    bench.fleet.renew(lambda kernel: kernel.run("import os, time"))
    for label, statement, rest, limit in cases:
        running: dict[int, str] = {}
        row = Row(f"first byte: {label}", target=Target(limit), unanswered="never")
        take = partial(write, code=f"{statement}\n{rest}", spins=rest is spin)
        rows.append(bench.fill(row, bench.plan(), take))
        for name in bench.fleet.names:
            kernel = bench.fleet[name]
            if kernel.pid in running:
                kernel.reply(running[kernel.pid], 5.0)
            kernel.drain()
    return rows


def flood(bench: Bench) -> list[Row]:
    """Many prints in one cell: time to idle, stream messages, and lines that never came.

    Lines are lost when a kernel publishes faster than the client reads: ZeroMQ drops what exceeds
    its high-water mark. The client is the one that nbclient and jupyter_server use, with the same
    marks, so the loss is what their users see; a bare subscriber would keep up.
    """
    bench.fleet.renew()
    rows: list[Row] = []
    for lines, share in ((10_000, 0.2), (100_000, 0.1)):
        what = f"{lines:_} prints".replace("_", " ")
        ratio = Target(ratios={"ipykernel": 1.0}) if lines == 100_000 else None
        seconds = Row(f"{what} to idle", unit="s", target=ratio)
        messages = Row(f"{what}: stream messages", unit="", absent=seconds.absent)
        lost = Row(
            f"{what}: lines the client never got",
            unit="",
            target=Target(0),
            out_of=lines,
            absent=seconds.absent,
        )

        def take(
            kernel: Kernel, count: int = lines, messages: Row = messages, lost: Row = lost
        ) -> list[float | None]:
            streams: list[Message] = []
            started = time.perf_counter()
            msg_id = kernel.execute(f"for i in range({count}): print(i)")
            while True:
                message = kernel.published(
                    10.0, lambda m: m["msg_type"] == "stream" or is_idle(m, msg_id)
                )
                if message is None or message["msg_type"] == "status":
                    break
                streams.append(message)
            elapsed = time.perf_counter() - started
            kernel.reply(msg_id, 10.0)
            late = [m for m in kernel.drain(0.05) if m["msg_type"] == "stream"]
            arrived = sum(m["content"]["text"].count("\n") for m in streams + late)
            name = kernel.spec.name
            messages.series.setdefault(name, Series()).add(len(streams) + len(late))
            lost.series.setdefault(name, Series()).add(count - arrived)
            return [None if message is None else elapsed]

        plan = replace(bench.plan(share), at_least=max(1, bench.n // 25))
        bench.fill(seconds, plan, take)
        rows += [seconds, messages, lost]
    return rows


def completion(bench: Bench) -> list[Row]:
    """complete_request to complete_reply, at rest and while a cell keeps the kernel busy."""
    cases = (
        ("idle", None, None),
        ("cell sleeps", "time.sleep(100)", 20.0),
        ("cell spins `while True: pass`", "while True: pass", 60.0),
        ("cell multiplies matrices (numpy)", "while True: a @ a", None),
    )

    def warm(kernel: Kernel) -> None:
        kernel.run("import time, numpy\nabcdef_1 = 1\na = numpy.random.rand(1500, 1500)")
        # The first completion imports jedi and parses builtins: half a second, once.
        for _ in range(5):
            kernel.reply(kernel.client.complete("abcdef_", 7), 10.0)
        kernel.drain()

    def ask(kernel: Kernel, busy: str | None) -> list[float | None]:
        times: list[float | None] = []
        running = kernel.begin(busy) if busy else None
        for _ in range(10):
            started = time.perf_counter()
            reply = kernel.reply(kernel.client.complete("abcdef_", 7), 3.0)
            times.append(time.perf_counter() - started if reply else None)
            if reply is None:
                break
            time.sleep(0.01)
        if running:
            kernel.stop(running)
        return times

    bench.fleet.renew(warm)
    rows = []
    for label, busy, limit in cases:
        target = None if limit is None else Target(limit)
        row = Row(f"completion, {label}", target=target, unanswered="blocked")
        plan = replace(bench.plan(), patience=1)
        rows.append(bench.fill(row, plan, partial(ask, busy=busy)))
    return rows


def interrupts(bench: Bench) -> list[Row]:
    """From an interrupt to the execute_reply of the cell it ends, within 5 s."""
    cells = ("time.sleep(100)", "while True: pass", "await asyncio.sleep(100)", "input()")
    bench.fleet.renew(lambda kernel: kernel.run("import asyncio, time"))

    def take(name: str, code: str, how: Interrupt) -> list[float | None]:
        kernel = bench.fleet[name]
        msg_id = kernel.begin(code)
        if code == "input()" and not kernel.input_requested(5.0):
            raise KernelError(f"{name}: input() asked for nothing")
        started = time.perf_counter()
        kernel.interrupt(how)
        reply = kernel.reply(msg_id, 5.0)
        latency = time.perf_counter() - started
        if reply is None:
            bench.fleet.restart(name)
            return [None]
        kernel.interrupt_settled(how)
        kernel.drain()
        return [latency]

    rows = []
    for how in Interrupt:
        names = [name for name, spec in bench.fleet.specs.items() if how in spec.interrupts]
        for code in cells:
            row = Row(f"interrupt `{code}` by {how.value}", target=Target(100.0))
            plan = replace(bench.plan(), seconds=bench.n * 0.1)
            interleave(bench.fleet, row, names, plan, partial(take, code=code, how=how))
            rows.append(row)
    return rows


def race(bench: Bench) -> list[Row]:
    """An interrupt that meets a short cell at any point must not cost its reply or idle.

    A reply is lost when the next cell's reply is there and this one is not: execution is ordered.
    """
    replies = Row("replies lost when an interrupt races a short cell", "", Target(0), out_of=1)
    idles = Row("idle statuses lost in that race", "", Target(0), out_of=1, absent=replies.absent)

    bench.fleet.renew()

    def take(kernel: Kernel) -> list[float | None]:
        name, how = kernel.spec.name, kernel.spec.interrupts[0]
        idle = idles.series.setdefault(name, Series())
        msg_id = kernel.execute("for i in range(20_000): pass")
        time.sleep(random.uniform(0.0005, 0.006))
        kernel.interrupt(how)
        lost = kernel.reply(msg_id, 0.1) is None
        kernel.interrupt_settled(how)
        if lost:
            probe = kernel.execute("pass")
            first = kernel.first_reply((msg_id, probe), 2.0)
            if first is None:
                idle.add(1)
                bench.fleet.restart(name)
                return [1]
            lost = first == probe
        idle.add(0 if kernel.idle(msg_id, 0.2) else 1)
        kernel.drain()
        return [1 if lost else 0]

    plan = replace(bench.plan(4), seconds=60.0)
    return [bench.fill(replies, plan, take), idles]


def cold_start(bench: Bench) -> list[Row]:
    """From Popen to the first reply, of a request that is sent at once; page cache warm."""
    rows = []
    fleet = bench.fleet
    for msg_type, content, target in (
        ("kernel_info_request", {}, Target(ratios={"ipykernel": 1.1})),
        ("execute_request", {"code": "1+1", "silent": False}, None),
    ):

        def take(
            name: str, msg_type: str = msg_type, content: Message = content
        ) -> Sequence[float]:
            with fleet.fresh(name) as process:
                started = time.perf_counter()
                process.launch()
                process.wait_until_answering(fleet.context, msg_type, content)
                return [time.perf_counter() - started]

        row = Row(f"cold start to {msg_type.replace('request', 'reply')}", target=target)
        interleave(fleet, row, list(fleet.specs), replace(bench.plan(0.4), seconds=60.0), take)
        rows.append(row)
    return rows


def memory(bench: Bench) -> list[Row]:
    """What a fresh kernel holds after one `1+1`, its child processes included."""
    unique = Row("memory: USS", "MiB")
    resident = Row("memory: RSS", "MiB", absent=unique.absent)

    def take(kernel: Kernel) -> list[float | None]:
        name = kernel.spec.name
        bench.fleet.restart(name)
        fresh = bench.fleet[name]
        time.sleep(0.5)
        process = psutil.Process(fresh.pid)
        sizes = [p.memory_full_info() for p in (process, *process.children(recursive=True))]
        resident.series.setdefault(name, Series()).add(sum(size.rss for size in sizes))
        return [sum(size.uss for size in sizes)]

    bench.fleet.renew()
    return [bench.fill(unique, replace(bench.plan(0.1), seconds=60.0), take), resident]


MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "echo": echo,
    "first-byte": first_byte,
    "flood": flood,
    "completion": completion,
    "interrupt": interrupts,
    "race": race,
    "cold": cold_start,
    "memory": memory,
}
