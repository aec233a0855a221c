"""The kernelspec's argv, as front ends run it that know no provisioners."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyter_client.connect import write_connection_file

from savepoint_kernel import launch
from tests.kernel.harness import Gate, Kernel

from .harness import Pool, await_end, connected_by, kill

COMMAND = ["-Xfrozen_modules=off", "-m", "savepoint_kernel"]


@contextmanager
def shim(
    pool: Pool, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Kernel]]:
    """Start a kernel as an editor does: with ports and a key of its own choice."""
    path, _ = write_connection_file(str(folder / "connection.json"))
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", launch.__file__, *COMMAND, f"-f={path}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(pool.env if env is None else env),
        cwd=folder,
    )
    try:
        with connected_by(path) as kernel:
            yield process, kernel
    finally:
        process.kill()
        process.communicate()


@contextmanager
def warm_shim(pool: Pool, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Kernel, int]]:
    """Start a kernel that must come from the pool; yields its process too."""
    pool.have_standbys()
    before = pool.hits()
    with shim(pool, folder) as (process, kernel):
        assert pool.hits() == before + 1
        pid = int(kernel.eval("__import__('os').getpid()"))
        assert pid != process.pid
        yield process, kernel, pid


def test_stdio_cwd_and_arguments_are_passed_on(pool: Pool, tmp_path: Path) -> None:
    with warm_shim(pool, tmp_path) as (process, kernel, _):
        kernel.ok("import os, sys; os.write(1, b'one'); os.write(2, b'two')")
        assert kernel.eval("os.getcwd()") == repr(str(tmp_path))
        assert kernel.eval("' '.join(sys.argv[1:])") == repr(f"-f {tmp_path}/connection.json")
        kernel.send("shutdown_request", {"restart": False}, channel="control")
        out, err = process.communicate(timeout=60)
    assert (out[-3:], err[-3:], process.returncode) == (b"one", b"two", 0)


@pytest.mark.parametrize(
    ("code", "status"),
    [("os._exit(3)", 3), ("os.kill(os.getpid(), 11)", -11), ("os.kill(os.getpid(), 9)", -9)],
)
def test_exit_status_is_the_kernel_s(pool: Pool, tmp_path: Path, code: str, status: int) -> None:
    with warm_shim(pool, tmp_path) as (process, kernel, _):
        kernel.start(f"import os; {code}")
        assert process.wait(60) == status


def test_signals_are_passed_on(pool: Pool, tmp_path: Path) -> None:
    with warm_shim(pool, tmp_path) as (process, kernel, pid):
        gate = Gate(tmp_path / "gate")
        cell = kernel.start(f"print('in it')\n{gate.wait}")
        kernel.stream(cell, "in it")
        process.send_signal(signal.SIGINT)
        assert kernel.finish(cell).content["ename"] == "KeyboardInterrupt"
        gate.close()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
        await_end(pid)


def test_kernel_ends_with_the_shim(pool: Pool, tmp_path: Path) -> None:
    with warm_shim(pool, tmp_path) as (process, _, pid):
        process.kill()
        await_end(pid)


def test_shim_outlives_the_daemon(own_pool: Pool, tmp_path: Path) -> None:
    with warm_shim(own_pool, tmp_path) as (process, kernel, pid):
        kill(own_pool.status()["pid"])
        assert kernel.eval("6 * 7") == "42"
        process.terminate()
        assert process.wait(60) == 1  # nobody is left who knows
        await_end(pid)


def test_shim_without_a_daemon_becomes_the_kernel(own_pool: Pool, tmp_path: Path) -> None:
    with shim(own_pool, tmp_path) as (process, kernel):
        assert kernel.eval("__import__('os').getpid()") == str(process.pid)
        own_pool.await_ready()
        kernel.send("shutdown_request", {"restart": False}, channel="control")
        assert process.wait(60) == 0
    (tmp_path / "next").mkdir()
    with warm_shim(own_pool, tmp_path / "next") as (_, kernel, _):
        assert kernel.eval("6 * 7") == "42"


@pytest.mark.parametrize(
    "variables",
    [
        {"SAVEPOINT_POOL": "0"},
        {"SAVEPOINT_POOL_DIR": "/proc/none"},
        {"SAVEPOINT_POOL_DIR": "/tmp/" + 120 * "x"},
        {f"FILL{number}": 100_000 * "x" for number in range(3)},
    ],
    ids=["switched off", "no directory", "path too long", "large environment"],
)
def test_shim_where_there_is_no_pool_becomes_the_kernel(
    own_pool: Pool, tmp_path: Path, variables: dict[str, str]
) -> None:
    with shim(own_pool, tmp_path, {**own_pool.env, **variables}) as (process, kernel):
        assert kernel.eval("__import__('os').getpid()") == str(process.pid)
        kernel.send("shutdown_request", {"restart": False}, channel="control")
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0
    assert b"Traceback" not in err
    assert not os.path.exists(own_pool.directory)
