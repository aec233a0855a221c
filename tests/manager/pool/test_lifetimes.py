"""Who may end without whom, and what is left then: nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from jupyter_client.connect import port_names
from jupyter_client.manager import KernelManager

from savepoint_kernel.launch import SOCKET
from savepoint_kernel.orders import order_of
from savepoint_manager.pool.client import UNKNOWN, connect, launch_kernel
from savepoint_manager.pool.directory import LOG
from tests.kernel.harness import PATIENCE, Kernel

from .harness import Pool, alive, await_end, kill, open_pool, until

ANSWER = "6 * 7"


def exit_status(kernel: Kernel) -> int:
    """Wait for the end of a kernel's process as whoever has started it does."""
    return kernel.manager.provisioner.process.wait(timeout=60)


def test_end_of_zygote_and_daemon_ends_no_kernel(own_pool: Pool) -> None:
    own_pool.have_standbys()
    status = own_pool.await_ready(2)
    (key,) = status["keys"]
    with own_pool.warm_kernel() as one, own_pool.warm_kernel() as other:
        kill(key["zygote"])
        own_pool.await_status(
            lambda status: status["keys"][0]["zygote"] not in (None, key["zygote"]),
            "there is a new zygote",
        )
        os.kill(one.pid, signal.SIGKILL)
        assert exit_status(one) == -signal.SIGKILL

        (key,) = own_pool.await_ready(2)["keys"]
        kill(status["pid"])
        assert other.eval(ANSWER) == "42"
        for pid in (key["zygote"], *key["standbys"]):
            await_end(pid)
        with own_pool.kernel() as another:  # starts by itself, and the daemon
            assert another.eval(ANSWER) == "42"
        assert own_pool.await_ready(1)["pid"] != status["pid"]
        with own_pool.warm_kernel() as another:
            assert another.eval(ANSWER) == "42"
        kill(other.pid)
        assert exit_status(other) == UNKNOWN


def test_standby_that_was_killed_is_replaced(own_pool: Pool) -> None:
    own_pool.have_standbys()
    (key,) = own_pool.await_ready(2)["keys"]
    for pid in key["standbys"]:
        kill(pid)
    own_pool.await_status(lambda status: status["keys"][0]["died"] == 2, "both are counted")
    with own_pool.warm_kernel() as kernel:
        assert kernel.eval(ANSWER) == "42"


def test_what_ends_again_and_again_is_given_up(own_pool: Pool) -> None:
    own_pool.have_standbys()
    problem = None
    while not problem:
        key = own_pool.key
        problem = key["problem"]
        for pid in filter(None, [key["zygote"], *key["standbys"]]):
            if alive(pid):
                kill(pid)
    with own_pool.kernel() as kernel:
        assert kernel.eval(ANSWER) == "42"
    assert problem in own_pool.key["misses"]


def test_stopped_daemon_leaves_kernels_and_no_socket(own_pool: Pool) -> None:
    with own_pool.warm_kernel() as kernel:
        own_pool.stop()
        assert sorted(os.listdir(own_pool.directory)) == ["pool.lock", "pool.log"]
        assert kernel.eval(ANSWER) == "42"
        assert kernel.manager.is_alive()
        kernel.manager.shutdown_kernel()
        assert not kernel.manager.has_kernel


def test_kernel_ends_with_its_front_end(pool: Pool) -> None:
    pool.have_standbys()
    with pool.front_end() as one, pool.front_end() as other, other.kernel() as kernel:
        kill(one.process.pid)
        await_end(one.pid)
        assert kernel.eval(ANSWER) == "42"
    await_end(other.pid)


def test_kernel_ends_with_its_front_end_in_the_middle_of_a_cell(pool: Pool) -> None:
    pool.have_standbys()
    with pool.front_end() as front_end, front_end.kernel() as kernel:
        cell = kernel.start("print('busy')\nwhile True: pass")
        kernel.stream(cell, "busy")
        kill(front_end.process.pid)
        await_end(front_end.pid)


def test_detached_kernel_outlives_its_front_end(pool: Pool) -> None:
    pool.have_standbys()
    before = pool.hits()
    with pool.front_end(independent=True) as front_end:
        kill(front_end.process.pid)
        with front_end.kernel() as kernel:
            assert kernel.eval(ANSWER) == "42"
            assert pool.hits() == before + 1
            kernel.reply(
                kernel.send("shutdown_request", {"restart": False}, channel="control"),
                channel="control",
            )
    await_end(front_end.pid)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 11)", -11),
        ("os._exit(3)", 3),
        ("os._exit(0)", 0),
    ],
)
def test_exit_status_is_the_kernel_s(pool: Pool, code: str, status: int) -> None:
    with pool.warm_kernel() as kernel:
        process = kernel.manager.provisioner.process
        assert process.poll() is None
        kernel.start(f"import os; {code}")
        assert exit_status(kernel) == status
        assert process.poll() == process.returncode == status
        process.kill()  # nobody there: nothing happens


def test_kernel_that_is_asked_to_shuts_down(pool: Pool) -> None:
    with pool.warm_kernel() as kernel:
        process = kernel.manager.provisioner.process
        kernel.manager.shutdown_kernel()
        assert process.returncode == 0
        assert not Path(kernel.manager.connection_file).exists()


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_process_can_be_ended(pool: Pool, how: str) -> None:
    with pool.warm_kernel() as kernel:
        process = kernel.manager.provisioner.process
        getattr(process, how)()
        number = signal.SIGTERM if how == "terminate" else signal.SIGKILL
        assert process.wait(60) == -number


def test_wait_has_a_time_out(pool: Pool) -> None:
    with pool.warm_kernel() as kernel, pytest.raises(subprocess.TimeoutExpired):
        kernel.manager.provisioner.process.wait(timeout=0.01)


@pytest.mark.parametrize("now", [False, True])
def test_restart_takes_another_kernel_of_the_same_ports(pool: Pool, now: bool) -> None:
    with pool.warm_kernel() as kernel:
        kernel.ok("x = 1")
        pid, port, before = kernel.pid, kernel.manager.shell_port, pool.hits()
        pool.await_ready()
        kernel.manager.restart_kernel(now=now)
        assert (kernel.manager.shell_port, pool.hits()) == (port, before + 1)
        assert kernel.pid != pid
        kernel.client.wait_for_ready(timeout=60)
        assert kernel.run("x").content["ename"] == "NameError"
        await_end(pid)


def test_nothing_is_left_of_many_kernels(own_pool: Pool) -> None:
    own_pool.have_standbys()
    status = own_pool.await_ready(2)
    daemon = psutil.Process(status["pid"])
    ours = psutil.Process()
    runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"])

    def cycle() -> None:
        manager = KernelManager(kernel_name="savepoint")
        manager.start_kernel(env=own_pool.env)
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        manager.context.destroy(linger=0)

    cycle()
    own_pool.await_ready(2)
    # The daemon may not have closed yet the connection on which it was just asked.
    daemons, tests, files = daemon.num_fds(), ours.num_fds(), set(runtime.iterdir())
    for _ in range(50):
        cycle()
    own_pool.await_status(lambda status: status["kernels"] == 0, "no kernel is left")
    own_pool.await_ready(2)
    until(
        lambda: (
            daemon.num_fds() <= daemons
            and ours.num_fds() <= tests
            and set(runtime.iterdir()) <= files
        ),
        f"no more descriptors than {daemons} and {tests}, no other files than {files}",
    )
    (key,) = own_pool.await_ready(2)["keys"]
    assert own_pool.processes().keys() == {key["zygote"], *key["standbys"]}
    assert psutil.STATUS_ZOMBIE not in own_pool.processes().values()


@pytest.mark.timeout(600)  # two CPUs
def test_nothing_is_left_of_a_thousand_kernels(own_pool: Pool, tmp_path: Path) -> None:
    own_pool.have_standbys()
    daemon = psutil.Process(own_pool.await_ready(2)["pid"])
    before = daemon.num_fds()

    def start_and_end(number: int) -> None:
        file = tmp_path / f"{number}.json"
        # Below those that the system hands out: kernels of other tests are to find theirs free.
        ports = dict(zip(port_names, range(10_000 + 5 * number, 32_000), strict=False))
        file.write_text(json.dumps({"transport": "tcp", "ip": "127.0.0.1", "key": "", **ports}))
        order = order_of(own_pool.order(connection_file=str(file)))
        with open(os.devnull, "r+") as null:
            process = launch_kernel(str(own_pool.directory), order, [null.fileno()] * 3)
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        file.unlink(missing_ok=True)  # it may have been about to write it anew

    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(start_and_end, range(1000)))) == 1000
    (key,) = own_pool.await_status(lambda status: status["kernels"] == 0, "none is left")["keys"]
    assert sum(key["hits"].values()) == 1000
    assert not key["died"]
    (key,) = own_pool.await_ready(2)["keys"]
    assert own_pool.processes().keys() == {key["zygote"], *key["standbys"]}
    assert psutil.STATUS_ZOMBIE not in own_pool.processes().values()
    until(lambda: daemon.num_fds() <= before, f"no more descriptors than {before}")
    assert not list(tmp_path.iterdir())
    assert {path.name for path in own_pool.directory.iterdir()} == {SOCKET, "pool.lock", LOG}


def test_daemon_that_nobody_needs_ends() -> None:
    with open_pool("c.Pool.idle_timeout = 0.1\n") as pool:
        with pool.kernel():
            log = pool.directory / "pool.log"
            until(lambda: log.exists() and "Not used for 0.1 s" in pool.log, "the daemon ends")
        until(lambda: not (pool.directory / "pool.sock").exists(), "its socket is removed")


def test_clients_wait_while_the_daemon_has_no_descriptors(own_pool: Pool) -> None:
    own_pool.have_standbys()
    daemon = psutil.Process(own_pool.await_ready(2)["pid"])
    limit = daemon.rlimit(psutil.RLIMIT_NOFILE)
    assert limit[0] == limit[1]
    daemon.rlimit(psutil.RLIMIT_NOFILE, (daemon.num_fds() + 3, limit[1]))
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(connect(str(own_pool.directory)))
        until(lambda: "has to wait" in own_pool.log, "it can't accept more")
        daemon.rlimit(psutil.RLIMIT_NOFILE, limit)
    with own_pool.warm_kernel() as kernel:
        assert kernel.eval(ANSWER) == "42"
