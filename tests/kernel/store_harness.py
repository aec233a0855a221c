"""Stores with contents that can be told from their labels, and processes that come to harm.

    python -m tests.kernel.store_harness SCENARIO DIRECTORY SEED

A commit's manifest is its label and the address of a chunk that lists the addresses of its values.
"""

from __future__ import annotations

import functools
import os
import random
import resource
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from savepoint_kernel.exceptions import CorruptStore
from savepoint_kernel.history import gc, packs
from savepoint_kernel.history.store import CommitRecord, Durability, SigningKey, Store

KEY = SigningKey(b"k" * 32)
OTHER_KEY = SigningKey(b"o" * 32)
SIZES = (0, 90, 3_000, 70_000, 100_000)


@functools.lru_cache(maxsize=1000)
def values_of(label: str, sizes: tuple[int, ...] = SIZES) -> list[bytes]:
    """The values of a commit: half of them compress well, and the last is shared by all."""
    source = random.Random(label)
    values = []
    for index, size in enumerate(sizes):
        part = source.randbytes(size if index % 2 else size // 10)
        values.append(part if index % 2 else part * 10)
    return [*values, b"the same in every commit" * 100]


def commit(
    store: Store,
    label: str,
    *,
    parent: bytes | None = None,
    refs: tuple[str, ...] = ("HEAD",),
    sizes: tuple[int, ...] = SIZES,
) -> bytes:
    addresses = [store.put(memoryview(value)) for value in values_of(label, sizes)]
    tree = store.put(b"".join(addresses))
    return store.commit(tree + label.encode(), parent=parent, refs=refs)


def references(record: CommitRecord, get: Callable[[bytes], bytes]) -> Iterator[bytes]:
    tree = record.manifest[:32]
    yield tree
    addresses = get(tree)
    yield from (addresses[i : i + 32] for i in range(0, len(addresses), 32))


def label_of(record: CommitRecord) -> str:
    return record.manifest[32:].decode()


def check(store: Store, record: CommitRecord, sizes: tuple[int, ...] = SIZES) -> None:
    """Compare every value of a commit.

    Raises:
        CorruptStore: one can't be read.
    """
    _, *addresses = references(record, store.get)
    values = values_of(label_of(record), sizes)
    assert [store.get(address) for address in addresses] == values
    filled = [bytearray(len(value)) for value in values]
    store.fill(zip(addresses, map(memoryview, filled), strict=True))
    assert filled == values


def intact(store: Store) -> list[str]:
    """The labels of the commits that are whole; no other may give a wrong value."""
    labels = []
    for record in store.commits():
        try:
            check(store, record)
        except CorruptStore:
            continue
        labels.append(label_of(record))
    return labels


def labels(store: Store) -> list[str]:
    return [label_of(record) for record in store.commits()]


def run(scenario: str, directory: Path, seed: int = 0) -> list[str]:
    """Run a scenario in a process of its own, and return the lines it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", __name__, scenario, str(directory), str(seed)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# ---- what runs in a process of its own


def kill_rounds(directory: Path, seed: int, live: Callable[[Path, int], None]) -> None:
    """Start a process that commits, kill it at a random moment, look what it left; many times.

    Forked from this one, which has no threads then: starting Python each time would take minutes.
    """
    packs.PACK_BYTES = 1 << 20
    source = random.Random(seed)
    announced_count = torn = 0
    for number in range(ROUNDS):
        path = directory / str(number // 10)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os.dup2(writer, 1)
            try:
                live(path, number)
            finally:
                os._exit(1)
        os.close(writer)
        with open(reader, "rb", buffering=0) as pipe:
            # From its first commit on, or from the moment it opens the store.
            if source.random() < 0.7:
                select.select([pipe], [], [])
            time.sleep(source.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), "the process ended by itself"
            announced = [line.split() for line in pipe.read().decode().splitlines()]
        with_store(path, announced)
        announced_count += len(announced)
        torn += any(label[0] == "drop" for label in announced)
    print("announced", announced_count)
    print("dropped", torn)


ROUNDS = 100


def with_store(path: Path, announced: list[list[str]]) -> None:
    store = Store.open(path, KEY)
    try:
        found = labels(store)
        dropped = {label for what, label in announced if what == "drop"}
        durable = [label for what, label in announced if what == "durable"]
        missing = [label for label in durable if label not in found and label not in dropped]
        assert not missing, f"{missing} were announced; the store has {found}, {store.notes}"
        assert intact(store) == found, f"a visible commit is not whole: {store.notes}"
        if durable:
            head = label_of(store.record(store.refs()["HEAD"]))
            assert found.index(head) >= found.index(durable[-1])
        # Else this takes longer with every round.
        store.gc([record.id for record in store.commits()][:-3], references)
    finally:
        store.close()


def say(*words: str) -> None:
    os.write(1, f"{' '.join(words)}\n".encode())


def commit_for_ever(path: Path, number: int) -> None:
    durability: tuple[Durability, Durability] = ("async", "sync")
    store = Store.open(path, KEY, durability=durability[number % 2])
    serial = 0
    while True:
        serial += 1
        commit(store, f"{number}-{serial}")
        store.settle()
        if number % 2 == 0:
            if serial % 3:
                continue
            store.flush()
        say("durable", f"{number}-{serial}")


def collect_for_ever(path: Path, number: int) -> None:
    gc._WORTH_A_FILE = 1
    store = Store.open(path, KEY)
    serial = 0
    while True:
        serial += 1
        commit(store, f"{number}-{serial}")
        store.flush()
        say("durable", f"{number}-{serial}")
        drop = list(store.commits())[:-2]
        for record in drop:
            say("drop", label_of(record))
        store.gc([record.id for record in drop], references)


def full_disk(directory: Path, seed: int) -> None:
    """Files can't grow over a limit, then they can."""
    store = Store.open(directory, KEY)
    commit(store, "before")
    store.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
    commit(store, "too much")
    commit(store, "more")
    try:
        store.flush()
        say("flushed")
    except OSError as error:
        say("refused", str(error.__cause__ is store.error is not None))
    say("losses", str(len(store.take_losses())))
    say("readable", str(intact(store)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    store.flush()
    say("error", str(store.error))
    store.close()


def full_for_long(directory: Path, seed: int) -> None:
    """Files can't grow, and more is committed than the queue may hold."""
    sizes = (0, 1 << 20) * 10
    store = Store.open(directory, KEY)
    commit(store, "before", sizes=sizes)
    store.flush()
    end = max(path.stat().st_size for path in (directory / "packs").iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (end, resource.RLIM_INFINITY))
    for serial in range(10):
        commit(store, f"lost {serial}", sizes=sizes)
    say("queued", str(store.stats().queued_bytes <= 65 << 20))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    store.flush()
    commit(store, "not heard yet", sizes=sizes)
    visible = {record.id for record in store.commits()}
    losses = store.take_losses()
    assert all(loss.commit not in visible for loss in losses)
    say("losses", str(sum(loss.commit is not None for loss in losses)), "visible", *labels(store))
    commit(store, "lost 0", sizes=sizes)
    store.flush()
    for record in store.commits():
        check(store, record, sizes)
    say("then", labels(store)[-1])
    store.close()


def as_nobody(directory: Path, seed: int) -> None:
    """Root may write anywhere; nobody else may here."""
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        Store.open(directory, KEY)
    except OSError as error:
        say("refused", type(error).__name__)


def hold(directory: Path, seed: int) -> None:
    """Have the store open until stdin ends."""
    store = Store.open(directory, KEY)
    commit(store, "theirs")
    store.flush()
    say("open")
    sys.stdin.read()
    store.close()


def exit_without_close(directory: Path, seed: int) -> None:
    commit(Store.open(directory, KEY), "at exit")


def terminated(directory: Path, seed: int) -> None:
    """A SIGTERM handler flushes, whatever it interrupts."""
    store = Store.open(directory, KEY)
    announced = 0

    def end(*args: object) -> None:
        store.flush()
        say("durable", str(announced))
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.setitimer(signal.ITIMER_REAL, random.Random(seed).uniform(0.05, 0.3))
    signal.signal(signal.SIGALRM, lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    while True:
        commit(store, str(announced + 1))
        announced += 1


def fork(directory: Path, seed: int) -> None:
    """A forked child may not write, and does not keep the store locked."""
    # Python 3.12 and later warn that the child of a process with threads may hang.
    warnings.simplefilter("ignore", DeprecationWarning)
    store = Store.open(directory, KEY)
    commit(store, "parent")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        for use in (lambda: store.put(b"x"), lambda: commit(store, "child"), store.flush):
            try:
                use()
            except RuntimeError as error:
                say("refused", str("forked" in str(error)))
        store.close()
        os.read(reader, 1)  # until the parent is gone
        os._exit(0)
    store.close()
    store = Store.open(directory, KEY)
    say("opened", *labels(store))
    store.close()
    os.close(writer)
    os.waitpid(child, 0)


SCENARIOS: dict[str, Callable[[Path, int], None]] = {
    "kill": lambda path, seed: kill_rounds(path, seed, commit_for_ever),
    "kill in gc": lambda path, seed: kill_rounds(path, seed, collect_for_ever),
    "full disk": full_disk,
    "full for long": full_for_long,
    "nobody": as_nobody,
    "hold": hold,
    "exit": exit_without_close,
    "terminated": terminated,
    "fork": fork,
}

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
