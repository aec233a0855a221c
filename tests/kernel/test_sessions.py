"""Sessions on disk: which go by themselves, and what a user may do with them."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from savepoint_kernel.display import StoreContents
from savepoint_kernel.exceptions import CheckpointNotFound, StoreLocked, UntrustedStore
from savepoint_kernel.history.expiry import DAY, Limits, expire
from savepoint_kernel.history.keeping import Sessions
from savepoint_kernel.history.sessions import Origin, open_store
from savepoint_kernel.history.store import SigningKey, Store

from .harness import Kernel, start_kernel
from .store_harness import KEY, commit, intact
from .test_timeline import ask, commits, shown, usage_error

NOTEBOOK = Origin("notebook", "/home/ada/analysis.ipynb")
KERNEL = Origin("kernel")
LIMITS = Limits(notebooks=30, named=0)


def make(directory: Path, origin: Origin | None = None, refs: tuple[str, ...] = ("HEAD",)) -> Path:
    """Make a closed session with one commit."""
    store = Store.open(directory, KEY)
    commit(store, "only", refs=refs)
    store.close()
    if origin is not None:
        origin.write(directory)
    return directory


def in_days(days: float) -> float:
    return time.time() + days * DAY


# ---- which go, and when


@pytest.mark.parametrize(
    ("name", "origin", "refs", "limits", "days", "goes"),
    {
        "notebook, of last week": ("n", NOTEBOOK, (), LIMITS, 7, False),
        "notebook, for long": ("n", NOTEBOOK, (), LIMITS, 31, True),
        "notebook with a checkpoint": ("n", NOTEBOOK, ("tag:kept",), LIMITS, 1000, False),
        "notebook with a branch": ("n", NOTEBOOK, ("branch:other",), LIMITS, 31, True),
        "checkpoint, configured": ("n", NOTEBOOK, ("tag:kept",), Limits(30, 90), 89, False),
        "checkpoint, configured and over": ("n", NOTEBOOK, ("tag:kept",), Limits(30, 90), 91, True),
        "notebook, kept for ever": ("n", NOTEBOOK, (), Limits(0, 0), 1000, False),
        "made beside a notebook's": ("n-1", Origin("notebook", "a", "n"), (), LIMITS, 31, True),
        "named": ("n", Origin("named"), (), LIMITS, 1000, False),
        "named, configured": ("n", Origin("named"), (), Limits(30, 90), 91, True),
        "made beside a named one": ("n-1", Origin("named", "", "n"), (), LIMITS, 31, True),
        "killed kernel, today": ("k", KERNEL, (), LIMITS, 0.9, False),
        "killed kernel, yesterday": ("k", KERNEL, (), LIMITS, 1.1, True),
        "killed kernel with a checkpoint": ("k", KERNEL, ("tag:kept",), LIMITS, 1000, False),
        "killed kernel, older version": (f"kernel-{'a1' * 12}", None, (), LIMITS, 1.1, True),
        "beside that": (f"kernel-{'a1' * 12}-{'b2' * 4}", None, (), LIMITS, 1.1, True),
        "of unknown origin": ("moved", None, (), LIMITS, 1000, False),
        "from the future": ("n", NOTEBOOK, (), LIMITS, -1000, False),
    }.values(),
    ids=lambda value: None,
)
def test_session_goes_when_its_time_has_come(tmp_path, name, origin, refs, limits, days, goes):
    session = make(tmp_path / name, origin, ("HEAD", *refs))
    assert expire(tmp_path, limits, now=in_days(days)) == [name] * goes
    assert session.exists() is not goes


def test_session_that_was_used_since_is_kept(tmp_path):
    session = make(tmp_path / "n", NOTEBOOK)
    for path in (session / "packs", *(session / "packs").iterdir()):
        os.utime(path, (0, 0))
    store = Store.open(session, KEY)
    commit(store, "new")
    store.close()
    assert expire(tmp_path, LIMITS) == []


def test_what_cannot_be_read_is_kept(tmp_path):
    session = make(tmp_path / "n", NOTEBOOK)
    (session / "format").write_bytes(b"damaged")
    assert expire(tmp_path, LIMITS, now=in_days(1000)) == []
    (listed,) = Sessions(str(tmp_path), None).all()
    assert (listed.name, listed.commits) == ("n", None)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Finalizers of what earlier tests left don't run where a parser is as deep as it may be."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"[" * 9000, b'{"kind": "x"}', b'{"kind": "kernel", "notebook": []}'],
    ids=range(6),
)
@pytest.mark.usefixtures("no_collection")
def test_session_with_a_senseless_origin_counts_as_named(tmp_path, content):
    session = make(tmp_path / "n")
    (session / "session").write_bytes(content)
    assert Origin.of(session) == Origin("named")
    assert expire(tmp_path, LIMITS, now=in_days(1000)) == []


def test_what_is_no_session_is_left_alone(tmp_path):
    elsewhere = make(tmp_path / "elsewhere" / "n", NOTEBOOK)
    root = tmp_path / "root"
    project = root / f"kernel-{'a1' * 12}"
    project.mkdir(parents=True)
    (project / "data.csv").touch()
    (root / "linked").symlink_to(elsewhere)
    (root / "file").touch()
    assert expire(root, LIMITS, now=in_days(1000)) == []
    assert sorted(os.listdir(root)) == ["file", project.name, "linked"]
    assert elsewhere.exists()


def test_index_that_was_set_aside_goes_after_a_while_and_its_session_stays(tmp_path):
    session = make(tmp_path / "n", Origin("named"))
    damaged = session / "index.sqlite.damaged"
    damaged.touch()
    expire(tmp_path, LIMITS, now=in_days(29))
    assert damaged.exists()
    assert expire(tmp_path, LIMITS, now=in_days(31)) == []
    assert not damaged.exists()
    assert session.exists()


# ---- beside kernels that live, and after processes that died


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python code that talks through stdin and stdout."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


EXPIRE_FOR_EVER = """
import sys, threading, time
from pathlib import Path
from savepoint_kernel.history.expiry import Limits, expire
root, removed, ended = Path(sys.argv[1]), 0, threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
print("begins", flush=True)
while not ended.is_set():
    removed += len(expire(root, Limits(1, 1), now=time.time() + 200_000))
print(removed)
"""


def test_open_session_is_kept(tmp_path):
    make(tmp_path / "n", NOTEBOOK)
    store = Store.open(tmp_path / "n", KEY)
    assert expire(tmp_path, LIMITS, now=in_days(31)) == []
    store.close()
    assert expire(tmp_path, LIMITS, now=in_days(31)) == ["n"]


def test_kernel_that_opens_a_session_while_it_goes_has_it_or_a_new_one(tmp_path):
    """Never a store of its own beside it, and never one whose files are gone."""
    with process(EXPIRE_FOR_EVER, str(tmp_path)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begins\n"
        source = random.Random(1)
        for number in range(40):
            if number % 4 == 3:
                while (tmp_path / "contended").exists():
                    pass
            else:
                time.sleep(source.uniform(0, 0.005))
            opened, notices = open_store(str(tmp_path), "contended", b"", "async", None)
            assert notices == []
            assert opened.directory == tmp_path / "contended"
            commit(opened.store, str(number))
            assert intact(opened.store)[-1] == str(number)
            assert (opened.directory / "index.sqlite").exists()
            opened.store.close()
        out, _ = child.communicate("")
        assert int(out) >= 10


EXPIRE_ONCE = """
import sys, time
from pathlib import Path
from savepoint_kernel.history.expiry import Limits, expire
print("begins", flush=True)
expire(Path(sys.argv[1]), Limits(1, 1), now=time.time() + 200_000)
"""


def test_kill_while_sessions_go_leaves_whole_ones_and_what_the_next_removes(tmp_path):
    model = make(tmp_path / "model", NOTEBOOK)
    source = random.Random(1)
    halves = 0
    for number in range(8):
        root = tmp_path / str(number)
        for name in "abc":
            shutil.copytree(model, root / name)
            for more in range(300):  # so that it takes a while
                (root / name / "packs" / f"more {more}").touch()
        with process(EXPIRE_ONCE, str(root)) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "begins\n"
            if number % 2:
                time.sleep(source.uniform(0, 0.01))
            else:
                while child.poll() is None and not any(root.glob(".savepoint-removed-*")):
                    pass
            child.kill()
            child.wait()
        for session in sorted(root.iterdir()):
            if session.name.startswith("."):
                halves += 1
                continue
            store = Store.open(session, KEY)
            assert intact(store) == ["only"]
            store.close()
        assert [session.name for session in Sessions(str(root), None).all()] == [
            path.name for path in sorted(root.iterdir()) if not path.name.startswith(".")
        ]
        expire(root, LIMITS, now=in_days(31))
        assert list(root.iterdir()) == []
    assert halves


def test_killed_kernel_leaves_a_session_for_a_day(tmp_path):
    with start_kernel(f"--Savepoints.directory={tmp_path}") as kernel:
        kernel.ok("x = 1")
        commits(kernel)
        kernel.ok("get_ipython().kernel.savepoints.flush()")
        session = Path(ask(kernel, "status")["store"])
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.manager.provisioner.process.wait(30)
    assert expire(tmp_path, LIMITS, now=in_days(0.9)) == []
    assert expire(tmp_path, LIMITS, now=in_days(1.1)) == [session.name]


JOIN = "import threading\n[t.join() for t in threading.enumerate() if t.name == 'savepoint-expiry']"


def test_kernel_removes_old_sessions_beside_its_cells_once_a_day(tmp_path):
    at_once = (f"--Savepoints.directory={tmp_path}", "--Savepoints.expiry_after=0")
    for name in ("first", "second"):
        session = make(tmp_path / name, NOTEBOOK)
        for path in (session / "packs", *(session / "packs").iterdir()):
            os.utime(path, (0, 0))
        with start_kernel(*at_once) as kernel:
            kernel.ok(JOIN)
            assert session.exists() is (name == "second")
            own = Path(ask(kernel, "status")["store"])
            assert own.exists()
    os.utime(tmp_path / ".savepoint-expiry", (0, 0))
    with start_kernel(*at_once, "--Savepoints.keep_days=0") as kernel:
        kernel.ok(JOIN)
    assert session.exists()


# ---- what a user sees and does


def answering(kernel: Kernel, code: str, answer: str) -> str:
    """Run a cell that asks once; returns what it displayed and printed."""
    cell = kernel.start(code)
    kernel.answer(kernel.prompt(cell), answer)
    result = kernel.finish(cell)
    assert result.content["status"] == "ok", result.content
    texts = [m["content"]["data"]["text/plain"] for m in result.of("display_data")]
    return "\n".join([*texts, result.text()])


def end(kernel: Kernel) -> None:
    kernel.client.shutdown()
    kernel.manager.provisioner.process.wait(30)


def test_sessions_are_listed_and_one_that_is_closed_is_deleted(tmp_path):
    make(tmp_path / "old", Origin("notebook", "/home/ada/old \x1b[31m.ipynb"))
    notebook = tmp_path / "work.ipynb"
    where = f"--Savepoints.directory={tmp_path}"
    with start_kernel(where, env={"JPY_SESSION_NAME": str(notebook)}) as kernel:
        kernel.ok("x = 1")
        count = len(commits(kernel))
        own = Path(ask(kernel, "status")["store"]).name
        lines = shown(kernel, "%savepoint sessions").splitlines()
        (mine,) = (line.split() for line in lines if own in line)
        assert mine[:3] == ["*", own, str(notebook)]
        assert mine[-1] == "open"
        assert str(count) in mine
        (old,) = (line for line in lines if "/home/ada/old" in line)
        assert "\x1b" not in old
        assert not old.endswith("open")
        assert "in use by" in usage_error(kernel, f"%savepoint delete {own} --yes")
        assert "no session" in usage_error(kernel, "%savepoint delete ../elsewhere --yes")
        assert "usage" in usage_error(kernel, "%savepoint delete")
        refused = kernel.run("%savepoint delete old", allow_stdin=False)
        assert "--yes" in refused.content["evalue"]
        assert "Nothing was done" in answering(kernel, "%savepoint delete old", "no")
        assert (tmp_path / "old").exists()
        assert "is deleted" in answering(kernel, "%savepoint delete old", "yes")
        assert not (tmp_path / "old").exists()
        make(tmp_path / "old")
        kernel.ok("%savepoint delete old --yes", allow_stdin=False)
        assert not (tmp_path / "old").exists()
        kernel.ok("x = 2")
        kernel.ok("%undo")
        assert kernel.eval("x") == "1"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sessions of another user; and the directory that loading one makes."""
    theirs = tmp_path_factory.mktemp("theirs")
    touched = theirs / "touched"
    with start_kernel("--Savepoints.session=moved", env={"JUPYTER_DATA_DIR": str(theirs)}) as first:
        first.ok(
            "import os\nclass Evil:\n    def __reduce__(self):\n"
            f"        return os.mkdir, ({str(touched)!r},)"
        )
        first.ok("shared = [1, 2]; other = shared; evil = Evil()")
        end(first)
    return theirs / "savepoint/sessions", touched


@pytest.fixture
def foreign(tmp_path: Path, theirs: tuple[Path, Path]) -> tuple[Path, Path]:
    """A data directory in which the sessions of another user are; and what loading one makes."""
    shutil.copytree(theirs[0], tmp_path / "ours/savepoint/sessions")
    return tmp_path / "ours", theirs[1]


def test_session_from_elsewhere_is_shown_and_trusted_before_it_is_used(foreign):
    ours, touched = foreign
    options = {"env": {"JUPYTER_DATA_DIR": str(ours)}}
    with start_kernel("--Savepoints.session=moved", **options) as kernel:
        kernel.ok("mine = 1")
        assert Path(ask(kernel, "status")["store"]).name.startswith("moved-")
        refused = kernel.run("%savepoint trust", allow_stdin=False)
        assert "--yes" in refused.content["evalue"]
        text = answering(kernel, "%savepoint trust", "no")
        assert "not signed by you" in text
        assert "shared = [1, 2]; other = shared" in text
        assert "Nothing was done" in text
        assert not touched.exists()
        assert "next start" in answering(kernel, "%savepoint trust", "yes")
        assert "nothing to trust" in kernel.ok("%savepoint trust moved").text()
        end(kernel)
    assert not touched.exists()
    with start_kernel("--Savepoints.session=moved", **options) as kernel:
        assert Path(ask(kernel, "status")["store"]).name == "moved"
        kernel.ok("%restore")
        assert kernel.eval("(other, other is shared)") == "([1, 2], True)"
    assert touched.exists()  # so the test would have seen it before


def test_directory_is_trusted_where_it_is_and_the_way_to_use_it_is_told(foreign, tmp_path):
    ours, _ = foreign
    with start_kernel(f"--Savepoints.directory={tmp_path}/mine") as kernel:
        place = ours / "savepoint/sessions/moved"
        assert "has the store of its session" in usage_error(kernel, "%savepoint trust --yes")
        assert "no session" in usage_error(kernel, f"%savepoint trust {tmp_path}/nowhere")
        assert "no store" in usage_error(kernel, f"%savepoint trust {tmp_path}")
        result = kernel.ok(f"%savepoint trust {place} --yes", allow_stdin=False)
        assert f"--Savepoints.directory={place.parent} --Savepoints.session=moved" in result.text()


def test_trust_respects_the_lock_and_what_was_shown(tmp_path):
    place = make(tmp_path / "n", KERNEL)
    sessions = Sessions(str(tmp_path), None)
    seen = sessions.look("n")
    assert seen.foreign == 1
    store = Store.open(place, KEY)
    with pytest.raises(StoreLocked):
        sessions.trust(seen)
    commit(store, "another one", refs=("\x1b[31m",))
    store.close()
    with pytest.raises(UntrustedStore, match="more commits"):
        sessions.trust(seen)
    seen = sessions.look("n")
    assert "\x1b" not in repr(StoreContents(seen))
    # The harness' commits are none of a timeline: whoever signs must be able to say what they need.
    assert sessions.trust(seen).signed == ()
    assert Origin.of(place) == Origin("named")  # so it does not go in a day
    with pytest.raises(CheckpointNotFound):
        sessions.look("nowhere")


def test_commits_changed_after_they_were_signed_are_told_apart(tmp_path):
    mine = SigningKey.load()
    store = Store.open(tmp_path / "n", mine)
    commit(store, "signed")
    store.close()
    pretender = make(tmp_path / "m")
    (pretender / "format").write_bytes((tmp_path / "n" / "format").read_bytes())
    shutil.copy(tmp_path / "n/packs/000001.pack", pretender / "packs/000002.pack")
    sessions = Sessions(str(tmp_path), None)
    assert (sessions.look("n").foreign, sessions.look("n").forged) == (0, 0)
    assert (sessions.look("m").foreign, sessions.look("m").forged) == (1, 0)
    make(tmp_path / "o")  # with an id of its own, so that the signature does not fit
    shutil.copy(tmp_path / "n/packs/000001.pack", tmp_path / "o/packs/000001.pack")
    assert (sessions.look("o").foreign, sessions.look("o").forged) == (1, 1)


def test_options_are_listed_and_set_by_their_type(own_kernel):
    table = shown(own_kernel, "%savepoint config")
    lines = {line.split()[0]: line for line in table.splitlines()}
    options = own_kernel.eval("' '.join(get_ipython().kernel.savepoints.traits(config=True))")
    assert {*options.strip("'").split()} == lines.keys() - {"option"}
    assert lines["keep_days"].split()[1:3] == ["30.0", "any"]
    assert "at start" in lines["durability"]
    assert "Commit every cell." in lines["enabled"]
    own_kernel.ok("%savepoint config keep_days 7")
    own_kernel.ok("%savepoint config verify all")
    assert shown(own_kernel, "%savepoint config keep_days").splitlines()[1].split()[1] == "7.0"
    own_kernel.ok("x = 1")
    assert commits(own_kernel)[-1]["verified"] == "full"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nothing", "there is no option 'nothing'; there are audit,"),
        ("keep_days soon", "could not convert"),
        ("keep_days -1", "keep_days"),
        ("verify sometimes", "verify"),
        ("durability sync", "--Savepoints.durability=sync"),
        ("quota 5", "c.Savepoints.quota = 5 "),
        ("enabled False", "c.Savepoints.enabled = False "),
        ("track_pages False", "c.Savepoints.track_pages = False "),
        ("keep_days 1 2", "usage: %savepoint config"),
    ],
)
def test_option_that_cannot_be_set_says_why_and_how(kernel, line, told):
    before = shown(kernel, "%savepoint config")
    assert told in usage_error(kernel, f"%savepoint config {line}")
    assert shown(kernel, "%savepoint config") == before
