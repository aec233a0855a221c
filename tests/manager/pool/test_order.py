"""A kernel of the pool is the kernel that the front end would have started."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.connect import LocalPortCache, port_names
from jupyter_client.manager import KernelManager

from tests.kernel.harness import PATIENCE

from .harness import Pool, environ, until

PROBE = Path(__file__).with_name("probe.py")

Probe = dict[str, Any]

DIFFERENT = {
    "SAVEPOINT_POOL": "that is how the other one was kept out of the pool",
    "stdin": "the one is given a pipe that has ended, the other /dev/null: both read as empty",
    "threads": "the one polls its parent, the other waits for the end of the front end",
}
"""What differs between a kernel that was started and one of the pool."""


@pytest.fixture(scope="module")
def probes(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Probe, Probe]:
    """What user code sees in a kernel that was started, and in one of the pool.

    The standby was made for other directories, another time zone and another session.
    """
    folder = tmp_path_factory.mktemp("order")
    pool.have_standbys()
    removed = next(name for name in pool.env if name.startswith(("SHLVL", "PWD", "LOGNAME", "_")))
    env = environ(
        **{**pool.env, removed: None},
        TMPDIR=str(folder),
        TZ="Asia/Tokyo",
        ADDED="by the order",
        JPY_SESSION_NAME="/home/notebook.ipynb",
    )

    def probe(env: dict[str, str]) -> Probe:
        path = folder / "probe.json"
        manager = KernelManager(kernel_name="savepoint", connection_file=str(folder / "c.json"))
        with pool.kernel(env=env, cwd=str(folder), manager=manager) as kernel:
            kernel.ok(f"import sys; sys.path.append({str(PROBE.parent)!r})")
            kernel.ok(f"import probe; probe.dump({str(path)!r}, globals())")
        return json.loads(path.read_text())

    cold = probe({**env, "SAVEPOINT_POOL": "0"})
    before = pool.hits()
    warm = probe(env)
    assert pool.hits() == before + 1
    return cold, warm


def test_user_code_sees_the_same_process(probes: tuple[Probe, Probe]) -> None:
    cold, warm = probes
    for probe in probes:
        del probe["environ"]["SAVEPOINT_POOL"]
    names = cold.keys() - DIFFERENT.keys()
    assert {name: warm[name] for name in names} == {name: cold[name] for name in names}
    assert set(warm["threads"]) - {"Parent"} <= set(cold["threads"])


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("encryption", ["disabled", "required"])
def test_ports_are_bound_when_the_kernel_is_there(
    pool: Pool, transport: str, encryption: str, tmp_path: Path
) -> None:
    ip = str(tmp_path / "k") if transport == "ipc" else "127.0.0.1"
    manager = KernelManager(
        kernel_name="savepoint", transport=transport, ip=ip, transport_encryption=encryption
    )
    with pool.warm_kernel(manager=manager) as kernel:
        assert kernel.eval("6 * 7") == "42"
        assert kernel.client.hb_channel.is_beating()
        assert bool(manager.curve_publickey) == (encryption == "required")


def test_ports_accept_at_once(pool: Pool) -> None:
    pool.have_standbys()
    manager = KernelManager(kernel_name="savepoint")
    manager.start_kernel(env=pool.env)
    try:
        for name in ("shell", "iopub", "stdin", "control"):
            port = getattr(manager, f"{name}_port")
            socket.create_connection(("127.0.0.1", port)).close()

        def beats() -> bool:
            with socket.socket() as heart:
                return not heart.connect_ex(("127.0.0.1", manager.hb_port))

        until(beats, "the heartbeat, which is asked for later, accepts too")
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_ports_that_somebody_else_has_taken_are_replaced(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        taken = []
        for _ in port_names:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            taken.append(listener.getsockname()[1])
        # It has found them free; then they were taken.
        found = iter(taken)
        monkeypatch.setattr(LocalPortCache, "find_available_port", lambda self, ip: next(found))
        manager = KernelManager(kernel_name="savepoint")
        with pool.warm_kernel(manager=manager) as kernel:
            told = {name: getattr(manager, name) for name in port_names}
            assert not set(taken) & set(told.values())
            written = json.loads(Path(manager.connection_file).read_text())
            assert {name: written[name] for name in port_names} == told
            kernel.client.hb_channel.unpause()
            until(kernel.client.hb_channel.is_beating, "its heart beats")
            assert kernel.eval("6 * 7") == "42"
            manager.restart_kernel()
            kernel.client.wait_for_ready(timeout=PATIENCE)
            assert {name: getattr(manager, name) for name in port_names} == told


def test_options_are_taken_late(pool: Pool) -> None:
    options = (
        "--HistoryManager.hist_file=:memory:",
        "--Savepoints.enabled=False",
        "--InteractiveShellApp.exec_lines=answer = 6 * 7",
    )
    pool.have_standbys()
    keys = len(pool.status()["keys"])
    with pool.warm_kernel(*options) as kernel:
        assert len(pool.status()["keys"]) == keys
        assert kernel.eval("get_ipython().history_manager.hist_file") == "':memory:'"
        assert kernel.ok("1").savepoint["commit"] is None
        assert kernel.eval("answer") == "42"
        assert kernel.eval("'|'.join(__import__('sys').argv[3:])") == repr("|".join(options))


def test_other_options_have_standbys_of_their_own(pool: Pool) -> None:
    options = ("--debug", "--InteractiveShell.ast_node_interactivity=all")
    with pool.warm_kernel(*options) as kernel:
        assert kernel.eval("get_ipython().parent.log.level") == "10"
        assert len(kernel.ok("1\n2").of("execute_result")) == 2


def test_start_up_is_the_order_s(pool: Pool, tmp_path: Path) -> None:
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-first.py").write_text(
        "import os\nseen = ' '.join([os.getcwd(), os.environ['ADDED']])\n"
    )
    (tmp_path / "profile_default" / "ipython_config.py").write_text(
        "c = get_config()\nc.InteractiveShellApp.extensions = ['autoreload']\n"
    )
    env = {**pool.env, "IPYTHONDIR": str(tmp_path)}
    pool.have_standbys(env=env)
    with pool.kernel(env={**env, "ADDED": "late"}, cwd=str(tmp_path)) as kernel:
        assert kernel.eval("seen") == repr(f"{tmp_path} late")
        kernel.ok("%autoreload 2", store_history=False)
        assert kernel.ok("1").content["execution_count"] == 1
        number = int(kernel.eval("get_ipython().history_manager.session_number"))
    (history,) = tmp_path.rglob("history.sqlite")
    with sqlite3.connect(history) as database:
        rows = database.execute("SELECT session, start FROM sessions").fetchall()
    database.close()
    assert [session for session, _ in rows] == [number]
    assert "00-first" not in pool.log


def test_only_kernel_info_is_answered_during_the_start_up(pool: Pool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    line = f"gate = open({str(gate)!r}).read()"
    with pool.warm_kernel(f"--InteractiveShellApp.exec_lines={line}") as kernel:  # it has answered
        history = {"hist_access_type": "tail", "n": 1, "raw": True, "output": False}
        requests = [
            kernel.send("complete_request", {"code": "gat", "cursor_pos": 3}),
            kernel.send("history_request", history),
            kernel.start("assert gate == 'open'"),
        ]
        gate.write_text("open")
        completion, past, cell = (kernel.reply(request)["content"] for request in requests)
        assert completion["matches"] == ["gate"]
        assert past["status"] == cell["status"] == "ok"


def test_stdio_is_the_front_end_s(pool: Pool, tmp_path: Path) -> None:
    pool.have_standbys()
    with (
        (tmp_path / "in").open("w+") as stdin,
        (tmp_path / "out").open("w+") as stdout,
        pool.warm_kernel(stdin=stdin, stdout=stdout, stderr=subprocess.STDOUT) as kernel,
    ):
        stdin.write("typed")
        stdin.seek(0)
        shown = kernel.ok("import os; os.write(1, b'one '); os.system('echo two; echo three >&2')")
        assert shown.text("stderr") == "three\n"
        kernel.ok("get_ipython().parent.log.warning('four')")
        assert kernel.eval("os.read(0, 100)") == "b'typed'"

        def echoed() -> bool:
            text = (tmp_path / "out").read_text()
            return all(word in text for word in ("one two", "three", "four"))

        until(echoed, "the output is in the front end's file")
    assert "three" not in pool.log
    assert "four" not in pool.log


def test_pipes_of_the_front_end_end_with_the_kernel(pool: Pool) -> None:
    with pool.warm_kernel(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as kernel:
        process = kernel.manager.provisioner.process
        kernel.ok("import os; os.write(1, b'one'); os.write(2, b'two')")
        os.kill(kernel.pid, 9)
        assert process.stdout.read() == b"one"
        assert process.stderr.read() == b"two"
        process.stdout.close()
        process.stderr.close()


LIMITS = """
import os, resource, signal
os.umask(0o027)
os.nice(5)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
open('/proc/self/oom_score_adj', 'w').write('300')
resource.setrlimit(resource.RLIMIT_NOFILE, (333, 444))
signal.signal(signal.SIGHUP, signal.SIG_IGN)
"""

SEEN = """
import os, resource, signal
seen = (
    oct(os.umask(0o027)),
    os.nice(0),
    len(os.sched_getaffinity(0)),
    open('/proc/self/oom_score_adj').read().strip(),
    resource.getrlimit(resource.RLIMIT_NOFILE),
    signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
)
"""


def test_limits_are_the_front_end_s(pool: Pool) -> None:
    pool.have_standbys()
    before = pool.hits()
    with pool.front_end(LIMITS) as front_end, front_end.kernel() as kernel:
        assert pool.hits() == before + 1
        kernel.ok(SEEN)
        nice = min(19, os.nice(0) + 5)
        assert kernel.eval("seen") == repr(("0o27", nice, 1, "300", (333, 444), True))
