"""``jupyter savepoint pool``, typed as a user does, on daemons of the tests' own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from savepoint_kernel import kernelspec, launch, orders

from .pool.harness import Pool, alive, await_end, open_pool

COMMAND = [sys.executable, "-m", "savepoint_manager.app", "pool"]

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "pool.md"

THREADS = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """A pool that runs, and keeps few standbys of many keys."""
    with open_pool("c.Pool.min_idle = 1; c.Pool.max_keys = 20") as pool:
        done = command(pool, "start")
        assert done.returncode == 0, done.stderr
        yield pool


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where kernels find ``starts_threads``."""
    directory = tmp_path_factory.mktemp("modules")
    (directory / "starts_threads.py").write_text(THREADS)
    return {"PYTHONPATH": str(directory)}


@pytest.fixture
def own_pool() -> Iterator[Pool]:
    """A pool that does not run."""
    with open_pool() as pool:
        yield pool


def command(pool: Pool, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**pool.env, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def succeed(pool: Pool, *arguments: str, **variables: str) -> str:
    done = command(pool, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def fail(pool: Pool, *arguments: str, **variables: str) -> str:
    done = command(pool, *arguments, **variables)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


def status(pool: Pool) -> dict[str, Any]:
    described = pool.status()
    assert described is not None, "there is no daemon"
    return described


def key_of(pool: Pool, said: str) -> dict[str, Any]:
    """Return the key that a command has named."""
    found = re.search(r"\(key (\w+)\)", said)
    assert found, said
    (key,) = (key for key in status(pool)["keys"] if key["key"] == found[1])
    return dict(key)


def test_start_and_stop_can_be_repeated(own_pool: Pool) -> None:
    assert "No pool runs" in fail(own_pool, "status")
    nothing = command(own_pool, "status", "--json")
    assert nothing.returncode == 1
    assert json.loads(nothing.stdout)["running"] is False
    assert "Nothing to stop" in succeed(own_pool, "stop")

    assert str(own_pool.directory) in succeed(own_pool, "start")
    pid = status(own_pool)["pid"]
    assert f"already, as process {pid}" in succeed(own_pool, "start")
    assert "Nothing was asked for yet" in succeed(own_pool, "status")

    assert "Stopped" in succeed(own_pool, "stop")
    assert not alive(pid)
    assert "Started" in succeed(own_pool, "start")


def test_kernels_and_their_front_ends_go_on_after_a_stop(own_pool: Pool) -> None:
    succeed(own_pool, "warm", "-n", "1")
    with own_pool.kernel() as kernel:
        kernel.ok("x = 41")
        assert "1 kernel in use" in succeed(own_pool, "status")
        assert "go on: 1" in succeed(own_pool, "stop")
        assert kernel.manager.is_alive()
        assert kernel.eval("x + 1") == "42"
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=30)
        assert kernel.eval("'x' in globals()") == "False"


def test_warm_keeps_standbys_for_what_front_ends_start(pool: Pool) -> None:
    said = succeed(pool, "warm", "savepoint", "-n", "2", "--preload", "imaplib,mailbox")
    assert said.startswith("2 standbys for savepoint ")
    key = key_of(pool, said)
    assert len(key["standbys"]) == 2
    assert key["preload"] == ["imaplib", "mailbox"]

    manager = KernelManager(kernel_name="savepoint")
    with pool.kernel(manager=manager) as kernel:
        assert kernel.eval("{'imaplib', 'mailbox'} <= __import__('sys').modules.keys()") == "True"
        assert key_of(pool, said)["hits"] == {"standby": 1, "fork": 0}

    assert succeed(pool, "warm", "-n", "0").startswith("0 standbys")
    for pid in key["standbys"]:
        await_end(pid)


def test_standbys_are_made_in_the_environment_of_the_kernelspec(pool: Pool, tmp_path: Path) -> None:
    kernelspec.install(
        KernelSpecManager(),
        prefix=str(tmp_path),
        kernel_name="geo",
        env={"OMP_NUM_THREADS": "3", "LANG": "${LC_TEST}.UTF-8"},
    )
    path = str(tmp_path / "share" / "jupyter")
    said = succeed(pool, "warm", "geo", "--no-wait", JUPYTER_PATH=path, LC_TEST="C")
    variables = key_of(pool, said)["variables"]
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["LANG"] == "C.UTF-8"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nosuch"], "No such kernel named nosuch"),
        (["python3"], "'python3' starts no Savepoint kernel"),
        (["--preload", "no_such_module"], "No module named 'no_such_module'"),
        (["--preload", "json,starts_threads"], "importing starts_threads starts threads"),
        (["-n", "-1"], "min_idle"),
        (["savepoint", "other"], "'other'"),
    ],
)
def test_warm_says_why_it_can_not(
    pool: Pool, modules: dict[str, str], arguments: list[str], reason: str
) -> None:
    assert reason in fail(pool, "warm", *arguments, **modules)


def test_preload_that_is_refused_leaves_the_one_before(pool: Pool, modules: dict[str, str]) -> None:
    succeed(pool, "warm", "-n", "1", "--preload", "mailbox", **modules)
    fail(pool, "warm", "-n", "3", "--preload", "starts_threads", **modules)
    said = succeed(pool, "warm", **modules)
    assert said.startswith("1 standby ")
    key = key_of(pool, said)
    assert key["preload"] == ["mailbox"]
    assert key["problem"] is None
    assert "starts_threads" in pool.log


def test_status_tells_keys_apart_by_what_differs(pool: Pool) -> None:
    succeed(pool, "warm", LANG="C.UTF-8")
    succeed(pool, "warm", "-n", "0", LANG="de_DE.UTF-8", OMP_NUM_THREADS="1")
    table = succeed(pool, "status")
    assert re.search(r"^  only here +LANG=C.UTF-8$", table, re.MULTILINE)
    assert re.search(r"^  only here +LANG=de_DE.UTF-8$", table, re.MULTILINE)
    assert re.search(r"^  only here +no OMP_NUM_THREADS$", table, re.MULTILINE)
    assert re.search(r"^  standbys +1 of 1, 0 warming$", table, re.MULTILINE)
    assert re.search(r"^  memory +[1-9]\d* MiB standbys, [1-9]\d* MiB zygote", table, re.MULTILINE)
    assert re.search(r"^  environment +[0-9a-f]{8}$", table, re.MULTILINE)


def test_what_status_says_to_programs_is_documented(pool: Pool) -> None:
    succeed(pool, "warm")
    described = json.loads(succeed(pool, "status", "--json"))
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCUMENTATION.read_text(), re.MULTILINE))
    assert {*described, *described["keys"][0]} <= documented
    assert set(described["options"]) <= documented


def test_config_names_the_file_of_each_option(own_pool: Pool) -> None:
    python = own_pool.config_directory / "jupyter_savepoint_config.py"
    other = own_pool.config_directory / "jupyter_savepoint_config.json"
    other.write_text('{"Pool": {"max_keys": 7}}')
    succeed(own_pool, "start", "--min-idle", "1", "--preload", "json,decimal", "--Pool.max_keys=3")
    said = succeed(own_pool, "config", "--Pool.max_age=60")
    assert re.search(rf"^refill_load +1000 +{re.escape(str(python))}$", said, re.MULTILINE)
    assert re.search(rf"^max_keys +7 +{re.escape(str(other))}$", said, re.MULTILINE)
    assert re.search(r"^min_idle +2 +default$", said, re.MULTILINE)
    assert re.search(r"^max_age +60 +command line$", said, re.MULTILINE)
    assert f"To change them, write to {python}" in said

    running = said.partition("started with other values")[2]
    assert re.search(r"^min_idle +1 *$", running, re.MULTILINE)
    assert re.search(r"^preload +json, decimal *$", running, re.MULTILINE)
    assert re.search(r"^max_keys +3 *$", running, re.MULTILINE)
    assert "refill_load" not in running


def test_an_option_that_can_not_be_keeps_the_daemon_from_starting(own_pool: Pool) -> None:
    assert "min_idle" in fail(own_pool, "start", "--min-idle=-3")
    config = own_pool.config_directory / "jupyter_savepoint_config.py"
    config.write_text("c.Pool.max_keys = 'four'\n")
    assert "'max_keys'" in fail(own_pool, "start")
    assert "'max_keys'" in fail(own_pool, "config")
    config.write_text("c.Pool.max_keys = 3\n")
    succeed(own_pool, "start")


@pytest.mark.parametrize("arguments", [["start"], ["warm"]])
def test_a_pool_that_is_switched_off_is_not_started(own_pool: Pool, arguments: list[str]) -> None:
    assert "SAVEPOINT_POOL=0" in fail(own_pool, *arguments, SAVEPOINT_POOL="0")
    assert own_pool.status() is None


def test_a_directory_that_can_not_be_used_is_named(own_pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert str(file) in fail(own_pool, "start", SAVEPOINT_POOL_DIR=str(file))
    long = str(tmp_path / ("d" * 120))
    assert "is too long" in fail(own_pool, "start", SAVEPOINT_POOL_DIR=long)
    assert "HOME" in fail(
        own_pool,
        "status",
        SAVEPOINT_POOL_DIR="",
        JUPYTER_RUNTIME_DIR="",
        XDG_RUNTIME_DIR="",
        HOME="",
    )


def test_a_daemon_that_talks_nonsense_is_named(own_pool: Pool) -> None:
    own_pool.directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(own_pool.directory / "pool.sock"))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.recv(1000)
                sock.send(b"nonsense")

        thread = threading.Thread(target=answer)
        thread.start()
        assert f"process {os.getpid()}, does not answer" in fail(own_pool, "status")
        thread.join()


def test_the_daemon_refuses_wishes_that_make_no_sense(pool: Pool) -> None:
    before = [key["key"] for key in status(pool)["keys"]]
    for name, wish in [
        ("min_idle", -1),
        ("min_idle", True),
        ("min_idle", "2"),
        ("preload", "json"),
        ("preload", [1]),
    ]:
        answer = pool.ask(op="warm", **{**pool.order(), name: wish})
        assert f"{name} is {wish!r}" in answer["miss"]
    assert [key["key"] for key in status(pool)["keys"]] == before


@pytest.mark.parametrize(
    ("arguments", "named"), [([], "warm"), (["start"], "--preload"), (["warm"], "--no-wait")]
)
def test_help_names_what_there_is(pool: Pool, arguments: list[str], named: str) -> None:
    assert named in succeed(pool, *arguments, "--help")


def test_an_unknown_subcommand_is_named(pool: Pool) -> None:
    assert "'wram'" in fail(pool, "wram")


@pytest.fixture
def large(own_pool: Pool) -> dict[str, str]:
    """An environment that fits into no order."""
    count = orders.MAX_SIZE // 100_000 + 1
    return own_pool.env | {f"LARGE_{number}": "x" * 100_000 for number in range(count)}


def test_a_kernel_with_an_environment_too_large_for_the_pool_starts(
    own_pool: Pool, large: dict[str, str]
) -> None:
    with own_pool.kernel(env=large) as kernel:
        assert kernel.eval("len(__import__('os').environ['LARGE_0'])") == "100000"
    own_pool.await_status(lambda status: True, "there is a daemon")


def test_the_shim_becomes_a_kernel_whose_environment_is_too_large_for_the_pool(
    large: dict[str, str],
) -> None:
    kernel = [sys.executable, "-I", "-S", launch.__file__, "-m", "savepoint_kernel", "-f", "none"]
    done = subprocess.run(
        [*kernel, "--version"], env=large, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_sandbox_that_shares_the_directory_has_no_kernels_of_the_pool(pool: Pool) -> None:
    pid = status(pool)["pid"]
    sandbox = ["unshare", "--uts", *([] if os.getuid() == 0 else ["--map-root-user"])]
    for arguments in ("status", "stop", "warm"):
        done = subprocess.run(
            [*sandbox, *COMMAND, arguments],
            env=pool.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "another namespace" in done.stderr
    assert status(pool)["pid"] == pid
