"""The store keeps what was announced, through crashes, damage and full disks, and nothing else."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from savepoint_kernel.exceptions import (
    CheckpointNotFound,
    CorruptStore,
    QuotaExceeded,
    StoreLocked,
    UntrustedStore,
)
from savepoint_kernel.history import gc, packs
from savepoint_kernel.history.catalog import commit_id
from savepoint_kernel.history.packs import Damage, Kind, Packs
from savepoint_kernel.history.store import CHUNK_BYTES, Durability, SigningKey, Store

from .store_harness import (
    KEY,
    OTHER_KEY,
    check,
    commit,
    intact,
    label_of,
    labels,
    references,
    run,
    values_of,
)

Open = Callable[..., Store]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open stores that are closed at the end; the first argument is a name."""
    stores = []

    def open_store(name: str = "store", key: SigningKey = KEY, **options: object) -> Store:
        stores.append(Store.open(tmp_path / name, key, **options))  # type: ignore[arg-type]
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed store with six commits in several packs."""
    directory = tmp_path / "filled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "PACK_BYTES", 150_000)
        store = Store.open(directory, KEY)
        for number in range(6):
            commit(store, str(number), refs=("HEAD", f"tag {number}"))
        store.close()
    assert len(list((directory / "packs").iterdir())) > 2
    return directory


ALL = ["0", "1", "2", "3", "4", "5"]


# ---- chunks, commits, refs


@pytest.mark.parametrize("durability", ["async", "sync", "memory"])
def test_what_was_put_is_read_back_queued_and_written(opened: Open, durability: Durability) -> None:
    store = opened(durability=durability)
    for size in (0, 1, 255, 65_535, 65_536, CHUNK_BYTES):
        for value in (random.Random(size).randbytes(size), b"z" * size):
            address = store.put(memoryview(bytearray(value)))
            assert store.get(address) == value
            store.flush()
            assert store.get(address) == value


def test_a_chunk_is_copied_before_put_returns(opened: Open) -> None:
    store = opened()
    data = bytearray(b"a" * 200_000)
    address = store.put(memoryview(data))
    data[:] = b"b" * 200_000
    store.flush()
    assert store.get(address) == b"a" * 200_000


def test_equal_chunks_are_stored_once(opened: Open) -> None:
    store = opened()
    value = random.Random(1).randbytes(500_000)
    first = store.put(value)
    assert store.put(bytearray(value)) == first
    store.flush()
    size = store.stats().disk_bytes
    assert store.put(value) == first
    store.flush()
    assert store.stats().disk_bytes == size < 510_000
    assert store.stats().stored_bytes == 500_000


def test_what_compresses_is_compressed(opened: Open) -> None:
    store = opened()
    store.put(bytes(range(256)) * 4096)
    store.flush()
    assert store.stats().disk_bytes < 20_000


def test_a_chunk_that_is_too_long_is_refused(opened: Open) -> None:
    with pytest.raises(ValueError, match="1048577 bytes"):
        opened().put(bytes(CHUNK_BYTES + 1))


def test_a_chunk_that_was_never_put_is_a_typed_error(opened: Open) -> None:
    store = opened()
    assert bytes(32) not in store
    with pytest.raises(CorruptStore, match="missing"):
        store.get(bytes(32))


def test_more_than_the_queue_holds_arrives(opened: Open) -> None:
    store = opened()
    source = random.Random(2)
    block = source.randbytes(CHUNK_BYTES - 4)
    made = [store.put(number.to_bytes(4, "little") + block) for number in range(100)]
    id = store.commit(b"".join(made), parent=None)
    store.flush()
    assert store.stats().queued_bytes == 0
    assert [store.get(address)[0] for address in made] == list(range(100))
    assert store.record(id).manifest == b"".join(made)


@pytest.mark.parametrize("flush", [False, True])
def test_commits_come_in_order_with_parent_and_refs(opened: Open, flush: bool) -> None:
    store = opened()
    first = commit(store, "first", refs=("HEAD", "main"))
    second = commit(store, "second", parent=first)
    if flush:
        store.flush()
    assert [(r.id, r.parent, label_of(r)) for r in store.commits()] == [
        (first, None, "first"),
        (second, first, "second"),
    ]
    assert store.refs() == {"HEAD": second, "main": first}
    assert intact(store) == ["first", "second"]


def test_a_closed_store_opens_with_everything(opened: Open) -> None:
    store = opened()
    first = commit(store, "first")
    store.set_ref("tag", first)
    store.set_ref("other", first)
    store.delete_ref("other")
    store.close()
    store = opened()
    assert intact(store) == ["first"]
    assert store.refs() == {"HEAD": first, "tag": first}
    assert store.notes == ()
    later = commit(store, "later", parent=first)
    assert store.record(later).seq > store.record(first).seq


def test_the_same_commit_again_only_moves_refs(opened: Open) -> None:
    store = opened()
    first = commit(store, "first")
    commit(store, "second")
    assert commit(store, "first") == first
    store.flush()
    assert labels(store) == ["first", "second"]
    assert store.refs() == {"HEAD": first}


def test_unknown_names_are_a_typed_error(opened: Open) -> None:
    store = opened()
    for use in (
        lambda: store.record(bytes(32)),
        lambda: store.set_ref("tag", bytes(32)),
        lambda: store.delete_ref("tag"),
        lambda: store.gc([bytes(32)], references),
    ):
        with pytest.raises(CheckpointNotFound):
            use()


def test_memory_leaves_nothing_on_disk(opened: Open, tmp_path: Path) -> None:
    store = opened(durability="memory")
    commit(store, "first")
    store.flush()
    assert intact(store) == ["first"]
    assert not list(tmp_path.iterdir())


def test_one_commit_over_the_quota_is_refused_and_the_next_accepted(opened: Open) -> None:
    store = opened(quota=250_000)
    source = random.Random(3)
    for _ in range(2):
        store.put(source.randbytes(100_000))
    with pytest.raises(QuotaExceeded, match="250000"):
        store.put(source.randbytes(100_000))
    assert commit(store, "small", sizes=(0, 1000))
    store.flush()
    assert labels(store) == ["small"]


def test_over_quota_shows(opened: Open) -> None:
    store = opened(quota=150_000)
    commit(store, "a", sizes=(0, 100_000))
    assert not store.over_quota
    commit(store, "b", sizes=(0, 100_000))
    assert store.over_quota


# ---- crashes


@pytest.mark.parametrize("scenario", ["kill", "kill in gc"])
def test_what_was_announced_survives_sigkill(scenario: str, tmp_path: Path) -> None:
    """100 random moments each; the process that kills checks what is left each time."""
    found = dict(line.split() for line in run(scenario, tmp_path, seed=1))
    assert int(found["announced"]) > 100
    assert (int(found["dropped"]) > 20) == (scenario == "kill in gc")


def test_a_cut_tail_loses_only_what_was_not_synced(opened: Open, tmp_path: Path) -> None:
    """A power cut: of what was written after the last sync any part may be missing."""
    source = random.Random(4)
    live = tmp_path / "store"
    store = opened()
    for number in range(3):
        commit(store, f"synced {number}")
    store.flush()
    synced = {path: path.stat().st_size for path in live.rglob("*") if path.is_file()}
    for number in range(5):
        commit(store, f"later {number}")
        store.flush()
    files = [path for path in live.rglob("*") if path.is_file() and path.name != "index.sqlite-shm"]
    for turn in range(60):
        copy = tmp_path / f"copy {turn}"
        for path in files:
            if path.name == "index.sqlite-wal" and turn % 4 == 3:
                continue
            data = path.read_bytes()
            if path.suffix == ".pack" or path.name.endswith("-wal"):
                start = synced[path]
                if path.name.endswith("-wal"):
                    start = source.choice([0, 32, start])  # it is never synced between
                cut = source.randint(start, len(data))
                tail = source.choice([b"", bytes(len(data) - cut), source.randbytes(5000)])
                data = data[:cut] + tail
            target = copy / path.relative_to(live)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        again = Store.open(copy, KEY)
        visible = labels(again)
        assert visible[:3] == ["synced 0", "synced 1", "synced 2"]
        assert visible[3:] == [f"later {n}" for n in range(len(visible) - 3)]
        assert intact(again) == visible
        assert label_of(again.record(again.refs()["HEAD"])) == visible[-1]
        commit(again, "afterwards")
        again.close()
        again = Store.open(copy, KEY)
        assert intact(again) == [*visible, "afterwards"]
        again.close()
        shutil.rmtree(copy)


def test_pages_missing_from_an_unsynced_tail_never_give_wrong_values(
    opened: Open, tmp_path: Path
) -> None:
    source = random.Random(5)
    store = opened()
    commit(store, "synced")
    store.flush()
    start = (tmp_path / "store/packs/000001.pack").stat().st_size
    for number in range(4):
        commit(store, f"later {number}")
        store.flush()
    store.close()
    for turn in range(40):
        copy = tmp_path / f"copy {turn}"
        shutil.copytree(tmp_path / "store", copy)
        for path in copy.glob("index*"):
            path.unlink()  # or nobody would read the packs
        pack = bytearray((copy / "packs/000001.pack").read_bytes())
        page = source.randrange(start, len(pack)) // 4096 * 4096
        begin, end = max(start, page), min(page + 4096, len(pack))
        pack[begin:end] = bytes(end - begin)
        (copy / "packs/000001.pack").write_bytes(pack)
        again = Store.open(copy, KEY)
        whole = intact(again)
        assert "synced" in whole
        assert len(whole) >= 3  # a page belongs to one commit, or is where two meet
        again.close()
        shutil.rmtree(copy)


def test_exit_without_close_keeps_everything(opened: Open, tmp_path: Path) -> None:
    run("exit", tmp_path / "store")
    assert intact(opened()) == ["at exit"]


@pytest.mark.parametrize("seed", range(5))
def test_sigterm_handler_can_flush_at_any_moment(opened: Open, tmp_path: Path, seed: int) -> None:
    (line,) = run("terminated", tmp_path / "store", seed)
    store = opened()
    announced = int(line.split()[1])
    assert intact(store)[:announced] == [str(n + 1) for n in range(announced)]


# ---- damage


def flip(path: Path, source: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    path.write_bytes(data)


def open_with_key_file(directory: Path) -> Store:
    return Store.open(directory, SigningKey.load(directory / "key"))


def test_a_flipped_bit_in_a_pack_damages_one_commit_at_most(filled: Path, tmp_path: Path) -> None:
    source = random.Random(6)
    for turn in range(60):
        copy = tmp_path / f"copy {turn}"
        shutil.copytree(filled, copy)
        flip(source.choice(sorted((copy / "packs").iterdir())), source)
        if turn % 2:
            (copy / "index.sqlite").unlink()
        store = Store.open(copy, KEY)
        whole = intact(store)
        assert len(whole) >= 5 or whole == []  # none if it hit the value that all share
        assert set(labels(store)) <= set(ALL)
        store.close()
        shutil.rmtree(copy)


def test_a_flipped_bit_in_the_index_loses_nothing(filled: Path, tmp_path: Path) -> None:
    source = random.Random(7)
    for turn in range(60):
        copy = tmp_path / f"copy {turn}"
        shutil.copytree(filled, copy)
        for _ in range(1 + turn % 3):
            flip(copy / "index.sqlite", source)
        store = Store.open(copy, KEY)
        assert intact(store) == ALL
        assert set(store.refs()) == {"HEAD", *(f"tag {n}" for n in range(6))}
        commit(store, "afterwards")
        store.flush()
        assert intact(store) == [*ALL, "afterwards"]
        store.close()
        shutil.rmtree(copy)


def test_a_flipped_bit_in_the_write_ahead_log_loses_nothing(opened: Open, tmp_path: Path) -> None:
    source = random.Random(8)
    store = opened()
    for number in range(4):
        commit(store, str(number))
        store.flush()
    for turn in range(60):
        copy = tmp_path / f"copy {turn}"
        shutil.copytree(tmp_path / "store", copy)
        flip(copy / "index.sqlite-wal", source)
        again = Store.open(copy, KEY)
        assert intact(again) == ["0", "1", "2", "3"]
        again.close()
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", ["format", "key"])
def test_a_flipped_bit_in_a_small_file_is_a_typed_error(
    filled: Path, tmp_path: Path, name: str
) -> None:
    source = random.Random(9)
    key = filled / "key"
    key.write_bytes(KEY.secret)
    key.chmod(0o600)
    for turn in range(60):
        copy = tmp_path / f"copy {turn}"
        shutil.copytree(filled, copy)
        flip(copy / name, source)
        with pytest.raises((CorruptStore, UntrustedStore)):
            open_with_key_file(copy)
        shutil.rmtree(copy)
    open_with_key_file(filled).close()


@pytest.mark.parametrize("name", ["index.sqlite", "packs/000001.pack", "packs/000002.pack"])
def test_a_file_cut_short_never_gives_wrong_values(filled: Path, tmp_path: Path, name: str) -> None:
    source = random.Random(10)
    for turn in range(20):
        copy = tmp_path / f"copy {turn}"
        shutil.copytree(filled, copy)
        os.truncate(copy / name, source.randrange((copy / name).stat().st_size))
        store = Store.open(copy, KEY)
        whole = intact(store)
        assert (whole == ALL) if name == "index.sqlite" else (set(whole) < set(ALL))
        store.close()
        shutil.rmtree(copy)


def test_a_missing_pack_is_noted(filled: Path) -> None:
    (filled / "packs/000001.pack").unlink()
    store = Store.open(filled, KEY)
    assert set(intact(store)) < set(ALL)
    assert store.notes
    store.close()


def test_a_damaged_chunk_is_written_anew_by_the_next_put(opened: Open, tmp_path: Path) -> None:
    store = opened()
    value = random.Random(11).randbytes(50_000)
    address = store.put(value)
    store.flush()
    pack = tmp_path / "store/packs/000001.pack"
    with open(pack, "r+b") as file:
        file.seek(20_000)
        file.write(b"damage")
    with pytest.raises(CorruptStore, match="damaged"):
        store.get(address)
    assert store.put(value) == address
    store.flush()
    assert store.get(address) == value


def test_an_index_damaged_while_open_is_made_anew(opened: Open, tmp_path: Path) -> None:
    store = opened()
    ids = [commit(store, str(number)) for number in range(3)]
    store.flush()
    store._writer.index.checkpoint()
    (tmp_path / "store/index.sqlite").write_bytes(b"not a database" * 1000)
    commit(store, "3", parent=ids[-1])
    store.flush()
    assert intact(store) == ["0", "1", "2", "3"]
    store.close()
    assert intact(opened()) == ["0", "1", "2", "3"]


# ---- trust


def test_another_users_store_is_refused_until_trusted(filled: Path) -> None:
    with pytest.raises(UntrustedStore, match=OTHER_KEY.id.hex()):
        Store.open(filled, OTHER_KEY)
    info = Store.inspect(filled)
    assert [commit.key_id for commit in info.commits] == [KEY.id] * 6
    assert set(info.refs) == {"HEAD", *(f"tag {n}" for n in range(6))}
    report = Store.trust(filled, OTHER_KEY, references)
    assert report.signed == tuple(commit.id for commit in info.commits)
    assert report.removed == {}
    store = Store.open(filled, OTHER_KEY)
    assert intact(store) == ALL
    assert set(store.refs()) == set(info.refs)
    store.close()
    (filled / "index.sqlite").unlink()
    store = Store.open(filled, OTHER_KEY)
    assert intact(store) == ALL
    store.close()
    with pytest.raises(UntrustedStore):
        Store.open(filled, KEY)


def test_trust_removes_what_is_not_whole(filled: Path) -> None:
    """A pack that lost its first half: some chunks are gone, commits are there."""
    first = filled / "packs/000001.pack"
    data = first.read_bytes()
    first.write_bytes(bytes(200_000) + data[200_000:])
    report = Store.trust(filled, OTHER_KEY, references)
    assert report.removed
    store = Store.open(filled, OTHER_KEY)
    assert intact(store) == labels(store)
    assert len(labels(store)) == len(report.signed) < 6
    store.close()


def forge(directory: Path, change: Callable[[bytes], bytes]) -> None:
    """Write a changed commit into the store as someone would who knows the format."""
    store = Packs(directory / "packs")
    for number in store.numbers:
        for item in store.scan(number):
            assert not isinstance(item, Damage)
            if item.header.kind is Kind.COMMIT:
                found = item
    assert found.payload is not None
    payload = change(found.payload)
    address = found.header.address
    if payload[-40:] != found.payload[-40:]:
        address = commit_id(payload[-33:], None)
    with store.batch():
        store.append(Kind.COMMIT, payload, address)
        store.sync()
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload[:32] + (99).to_bytes(8, "little") + payload[40:-1] + b"X",
        lambda payload: bytes(32) + (99).to_bytes(8, "little") + payload[40:-1] + b"X",
        lambda payload: payload[:32] + (99).to_bytes(8, "little") + payload[40:],
    ],
    ids=["manifest", "no mac", "order"],
)
def test_a_forged_commit_closes_the_store(filled: Path, change: Callable[[bytes], bytes]) -> None:
    forge(filled, change)
    with pytest.raises(UntrustedStore, match="changed after you signed"):
        Store.open(filled, KEY)


def test_a_commit_copied_from_another_store_is_refused(opened: Open, tmp_path: Path) -> None:
    for name in ("a", "b"):
        store = opened(name)
        commit(store, name)
        store.close()
    theirs = (tmp_path / "b/packs/000001.pack").read_bytes()
    with open(tmp_path / "a/packs/000001.pack", "ab") as file:
        file.write(theirs)
    (tmp_path / "a/index.sqlite").unlink()
    with pytest.raises(UntrustedStore):
        opened("a")


def test_a_forged_chunk_is_not_handed_out(filled: Path) -> None:
    store = Store.open(filled, KEY)
    value = values_of("5")[1]
    address = store.put(value)
    place = store._writer.index.find(address)
    assert place is not None
    store.close()
    forged = Packs(filled / "packs")
    with forged.batch():
        forged.append(Kind.CHUNK, b"evil", address)
        forged.sync()
    forged.close()
    (filled / "index.sqlite").unlink()
    store = Store.open(filled, KEY)
    with pytest.raises(CorruptStore, match="not what was stored"):
        store.get(address)
    for size in (len(b"evil"), len(value)):
        with pytest.raises(CorruptStore, match="not what was stored"):
            store.fill([(address, memoryview(bytearray(size)))])
    store.close()


def test_what_is_filled_has_the_length_it_should_have(opened: Open) -> None:
    store = opened()
    raw, packed = random.Random(0).randbytes(3000), b"x" * 3000
    for address in (store.put(raw), store.put(packed)):
        for when in ("queued", "written"):
            for size in (2999, 3001):
                with pytest.raises((CorruptStore, ValueError)):
                    store.fill([(address, memoryview(bytearray(size)))])
            if when == "queued":
                store.flush()


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "made" / "key"
    key = SigningKey.load(path)
    assert SigningKey.load(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    SigningKey.load(path)
    path.chmod(mode)
    with pytest.raises(PermissionError, match="chmod 600"):
        SigningKey.load(path)


def test_a_key_of_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    SigningKey.load(path)
    path.write_bytes(b"short")
    with pytest.raises(CorruptStore, match="32 bytes"):
        SigningKey.load(path)


# ---- disks and processes


def test_a_full_disk_shows_in_error_and_is_tried_again(opened: Open, tmp_path: Path) -> None:
    assert run("full disk", tmp_path / "store") == [
        "refused True",
        "losses 0",
        "readable ['before', 'too much', 'more']",
        "error None",
    ]
    (tmp_path / "store/index.sqlite").unlink()
    store = opened()
    assert intact(store) == ["before", "too much", "more"]
    assert store.notes == (), "a part of what failed is left in a pack"


def test_a_disk_full_for_long_loses_commits_loudly(opened: Open, tmp_path: Path) -> None:
    queued, losses, then = run("full for long", tmp_path / "store")
    assert queued == "queued True"
    assert losses == "losses 11 visible before"
    assert then == "then lost 0"
    assert labels(opened()) == ["before", "lost 0"]


def test_a_directory_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    (line,) = run("nobody", closed / "store")
    assert line == "refused PermissionError"
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Store.open(tmp_path / "file" / "store", KEY)


def test_a_deleted_directory_shows_in_error(opened: Open, tmp_path: Path) -> None:
    store = opened()
    commit(store, "first")
    store.flush()
    (tmp_path / "store").rename(tmp_path / "away")
    commit(store, "second")
    with pytest.raises(OSError, match="not everything is on disk"):
        store.flush()
    assert isinstance(store.error, FileNotFoundError)
    (tmp_path / "away").rename(tmp_path / "store")
    store.flush()
    assert store.error is None
    assert intact(store) == ["first", "second"]


def test_a_second_opener_is_told_who_has_it(opened: Open, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.kernel.store_harness", "hold", str(tmp_path / "store"), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked, match=f"process {other.pid} "):
            opened()
        assert [c.key_id for c in Store.inspect(tmp_path / "store").commits] == [KEY.id]
        other.stdin.close()
    assert labels(opened()) == ["theirs"]


def test_a_store_is_opened_once_in_one_process(opened: Open) -> None:
    store = opened()
    with pytest.raises(StoreLocked, match=f"process {os.getpid()} "):
        opened()
    store.close()
    opened()


def test_a_forked_child_cannot_write_and_keeps_no_lock(tmp_path: Path) -> None:
    lines = run("fork", tmp_path / "store")
    assert lines.count("refused True") == 3
    assert "opened parent" in lines


def test_a_closed_store_refuses_use(opened: Open) -> None:
    store = opened()
    store.close()
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        store.put(b"x")


# ---- collecting garbage


def test_gc_keeps_what_is_kept_and_frees_the_rest(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "_WORTH_A_FILE", 1)
    store = Store.open(filled, KEY)
    records = list(store.commits())
    for number in range(5):
        store.delete_ref(f"tag {number}")
    report = store.gc([record.id for record in records[:5]], references)
    assert report.commits == 5
    assert report.damaged == ()
    assert report.bytes_after < report.bytes_before / 3
    assert intact(store) == ["5"]
    on_disk = sum(path.stat().st_size for path in (filled / "packs").iterdir())
    assert on_disk == report.bytes_after == store.stats().disk_bytes
    store.close()
    for index in (True, False):
        if not index:
            (filled / "index.sqlite").unlink()
        store = Store.open(filled, KEY)
        assert intact(store) == labels(store) == ["5"], f"index there: {index}"
        assert set(store.refs()) == {"HEAD", "tag 5"}
        store.close()


def test_a_removed_commit_stays_removed_without_the_index(filled: Path) -> None:
    """Its record is still in a pack that is too full of living ones to be rewritten."""
    store = Store.open(filled, KEY)
    first = next(store.commits())
    store.delete_ref("tag 0")
    assert store.gc([first.id], references).commits == 1
    store.close()
    (filled / "index.sqlite").unlink()
    store = Store.open(filled, KEY)
    assert intact(store) == labels(store) == ALL[1:]
    assert set(store.refs()) == {"HEAD", *(f"tag {n}" for n in range(1, 6))}
    store.close()


def test_gc_refuses_a_commit_that_a_ref_names(opened: Open) -> None:
    store = opened()
    id = commit(store, "first")
    with pytest.raises(ValueError, match="HEAD"):
        store.gc([id], references)
    assert intact(store) == ["first"]


def test_gc_spares_what_was_put_for_the_next_commit(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "_WORTH_A_FILE", 1)
    store = opened()
    old = commit(store, "old", refs=())
    store.flush()
    addresses = [store.put(memoryview(value)) for value in values_of("old")]
    store.gc([old], references)
    tree = store.put(b"".join(addresses))
    again = store.commit(tree + b"old", parent=old, refs=["HEAD"])
    store.flush()
    check(store, store.record(again))


def test_a_chunk_removed_by_gc_is_stored_again(opened: Open) -> None:
    store = opened()
    old = commit(store, "old", refs=())
    store.gc([old], references)
    assert labels(store) == []
    assert commit(store, "old") == old
    store.flush()
    assert intact(store) == ["old"]


def test_gc_works_in_memory(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "_WORTH_A_FILE", 1)
    store = opened(durability="memory")
    ids = [commit(store, str(number)) for number in range(4)]
    assert store.gc(ids[:3], references).bytes_after < 500_000
    assert intact(store) == ["3"]
