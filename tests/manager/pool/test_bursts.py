"""Many at once."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
from jupyter_client.connect import write_connection_file
from jupyter_client.manager import AsyncKernelManager

from savepoint_kernel import orders
from savepoint_manager.pool.client import connect, spawn_daemon

from .harness import Pool, until

COUNT = 12


def test_all_of_a_burst_come_in_turn_and_leave_nothing(own_pool: Pool, tmp_path: Path) -> None:
    own_pool.have_standbys()
    daemon = psutil.Process(own_pool.await_ready(2)["pid"])
    before = daemon.num_fds()
    asking: list[socket.socket] = []
    with ExitStack() as opened, open(os.devnull, "r+") as null:
        for number in range(COUNT):
            # No ports: somebody else could take them meanwhile.
            path, _ = write_connection_file(
                str(tmp_path / f"{number}.json"), transport="ipc", ip=str(tmp_path / f"{number}")
            )
            asking.append(opened.enter_context(connect(str(own_pool.directory))))
            order = {"op": "launch", **own_pool.order(connection_file=path, detached=True)}
            orders.send(asking[-1], order, [null.fileno()] * 3)
        gone = asking.pop()  # does not wait for its turn
        gone.close()
        pids = []
        for sock in asking:
            sock.settimeout(60)
            answer, descriptors = orders.receive(sock)
            orders.close_all(descriptors)
            pids.append(answer["pid"])
            opened.callback(end, answer["pid"])
        status = own_pool.await_status(
            lambda status: (
                sum(status["keys"][0]["hits"].values()) == COUNT and status["kernels"] == COUNT - 1
            ),
            "all but the one that is gone are there",
        )
        assert status["keys"][0]["hits"]["standby"] >= 2
        born = [psutil.Process(pid).create_time() for pid in pids[2:]]
        turns = [abs(at - sorted(born).index(time)) for at, time in enumerate(born)]
        assert max(turns) <= (os.cpu_count() or 1)
        for pid in pids:
            end(pid)
        for sock in asking:
            assert orders.receive(sock) == ({"exit": -9}, [])
            sock.close()
    own_pool.await_status(lambda status: status["kernels"] == 0, "no kernel is left")
    own_pool.await_ready(2)
    (key,) = own_pool.await_ready(2)["keys"]
    assert own_pool.processes().keys() == {key["zygote"], *key["standbys"]}
    until(lambda: daemon.num_fds() <= before, f"{before} descriptors are left")


def end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, 9)


def test_kernels_of_a_burst_work(pool: Pool) -> None:
    pool.have_standbys()
    before = pool.hits()

    async def one(number: int) -> str:
        manager = AsyncKernelManager(kernel_name="savepoint")
        await manager.start_kernel(env=pool.env)
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        expression = {"square": f"{number} ** 2"}
        reply = await client.execute("", user_expressions=expression, reply=True, timeout=60)
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        client.context.destroy(linger=0)
        return reply["content"]["user_expressions"]["square"]["data"]["text/plain"]

    async def burst() -> list[str]:
        return await asyncio.gather(*map(one, range(6)))

    assert asyncio.run(burst()) == [str(number**2) for number in range(6)]
    assert pool.hits() == before + 6


def test_of_daemons_started_at_once_one_lives(own_pool: Pool) -> None:
    sockets = [spawn_daemon(str(own_pool.directory)) for _ in range(4)]
    alive = []
    for sock in sockets:
        with sock:
            sock.settimeout(60)
            try:
                orders.send(sock, {"op": "status"})
                answer, _ = orders.receive(sock)
            except OSError:
                answer = {}
            if answer:
                alive.append(answer["pid"])
    assert alive == [own_pool.ask(op="status")["pid"]]
    until(lambda: daemons(own_pool) == alive, "the others have ended")


def daemons(pool: Pool) -> list[int]:
    option = f"--directory={pool.directory}"
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            if option in process.cmdline():
                found.append(process.pid)
    return found


def test_kernels_started_at_once_without_a_daemon_start_one(own_pool: Pool) -> None:
    with own_pool.front_end() as one, own_pool.front_end() as other:
        own_pool.await_ready(1)
        until(lambda: len(daemons(own_pool)) == 1, "one daemon is left")
        for front_end in (one, other):
            with front_end.kernel() as kernel:
                assert kernel.eval("6 * 7") == "42"
