"""Kernels of other kernelspecs: kept ready, adopted by front ends, and ended with them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import psutil
import pytest
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

from savepoint_kernel import orders
from savepoint_kernel.orders import OrderRefused
from savepoint_manager.exceptions import SandboxUnavailable
from savepoint_manager.pool.adoption import Adoption
from savepoint_manager.pool.client import PooledProcess, PoolMissed, adopt_kernel, connect
from savepoint_manager.pool.keeper import MAX_LOSSES
from savepoint_manager.pool.provisioner import SavepointProvisioner
from tests.kernel.harness import Kernel, parent_id

from .harness import Pool, alive, await_end, kill, open_pool, until

Message = dict[str, Any]

PROVISIONER = {"kernel_provisioner": {"provisioner_name": "savepoint-provisioner"}}

SPECS: dict[str, Message] = {
    "bash": {
        "argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"],
        "metadata": PROVISIONER,
    },
    "deno": {
        "argv": [
            str(Path(sys.executable).with_name("deno")),
            *("jupyter", "--kernel", "--conn", "{connection_file}"),
        ],
        "env": {"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"},
        "metadata": PROVISIONER,
    },
}

CODE = {"bash": "cd {cwd}", "deno": "Deno.chdir({cwd})"}


def configuration(code: object = CODE) -> str:
    return f"c.Pool.min_idle = 1\nc.Pool.max_keys = 20\nc.Pool.adopt = {code!r}\n"


def write_spec(directory: Path, name: str, **changes: Any) -> Path:
    """Write a kernelspec below a directory for JUPYTER_PATH."""
    path = directory / "kernels" / name / "kernel.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"display_name": name, "language": name, **SPECS[name], **changes}))
    return path


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the kernelspecs are."""
    directory = tmp_path_factory.mktemp("jupyter")
    for name in SPECS:
        write_spec(directory, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(directory))
        yield directory


@pytest.fixture(scope="module")
def foreign(specs: Path) -> Iterator[Pool]:
    """A pool for tests that leave it as it is."""
    with open_pool(configuration()) as pool:
        for name in SPECS:
            warm(pool, name)
        yield pool


@pytest.fixture
def own_foreign(specs: Path) -> Iterator[Pool]:
    """A pool nobody else uses, with a kernel of Deno."""
    with open_pool(configuration()) as pool:
        warm(pool, "deno")
        yield pool


def warm(pool: Pool, name: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "savepoint_manager.app", "pool", "warm", name],
        env=pool.env,
        check=True,
    )


def key_of(status: Message, name: str) -> Message:
    """Find the first key of a kernelspec."""
    if name == "savepoint":
        return next(key for key in status["keys"] if key["zygote"])
    command = SPECS[name]["argv"]
    return next(key for key in status["keys"] if [key["executable"], *key["options"]] == command)


def start(
    pool: Pool, name: str, ip: str = "127.0.0.1", **options: Any
) -> AbstractContextManager[Kernel]:
    return pool.kernel(manager=KernelManager(kernel_name=name, ip=ip), **options)


def directory_of(kernel: Kernel) -> str:
    """Ask a kernel where it is."""
    if kernel.manager.kernel_name == "bash":
        return kernel.run("pwd").text().strip()
    return str(json.loads(result_of(kernel, "Deno.cwd()")))


def answers(kernel: Kernel) -> bool:
    """Run something in a kernel of Deno."""
    return result_of(kernel, "6 * 7") == "42"


def result_of(kernel: Kernel, expression: str) -> str:
    """Wait for a result, which Deno may publish when the cell is long over."""
    cell = kernel.start(expression)
    result = kernel.wait(
        "iopub", lambda m: parent_id(m) == cell and m["msg_type"] == "execute_result"
    )
    return str(result["content"]["data"]["text/plain"])


def adoption_of(pool: Pool, name: str) -> Adoption:
    """Spell what a front end would ask for."""
    manager = KernelManager(kernel_name=name, connection_file=os.devnull)
    spec = manager.kernel_spec
    provisioner = SavepointProvisioner(kernel_id="", kernel_spec=spec, parent=manager)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", pool.env)
        adoption = asyncio.run(provisioner.order())
    assert isinstance(adoption, Adoption)
    return adoption


def programs_below(pid: int) -> list[str]:
    return [child.name() for child in psutil.Process(pid).children(recursive=True)]


def is_adopted(kernel: Kernel) -> bool:
    return isinstance(kernel.manager.provisioner.process, PooledProcess)


@pytest.mark.parametrize("name", SPECS)
def test_started_kernel_is_adopted_where_the_front_end_wants_it(
    foreign: Pool, tmp_path: Path, name: str
) -> None:
    cwd = tmp_path / "späce (and) 'quotes'"
    cwd.mkdir()
    before = key_of(foreign.await_ready(), name)
    with start(foreign, name, cwd=str(cwd)) as kernel:
        assert [kernel.pid] == before["standbys"]
        assert directory_of(kernel) == str(cwd)
        assert kernel.run("true").content["execution_count"] == 2
        after = foreign.status()
        assert after is not None
        assert key_of(after, name)["in_use"] == 1
        assert key_of(after, name)["hits"]["standby"] == before["hits"]["standby"] + 1
    await_end(kernel.pid)


def test_notebook_is_run_by_an_adopted_kernel(foreign: Pool, tmp_path: Path) -> None:
    (pid,) = key_of(foreign.await_ready(), "bash")["standbys"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pwd; echo $PPID")])
    client = nbclient.NotebookClient(
        notebook, kernel_name="bash", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=foreign.env)
    text = "".join(output.text for output in notebook.cells[0].outputs)
    assert text.split() == [str(tmp_path), str(pid)]


def test_adopted_kernel_is_interrupted_restarted_and_shut_down(foreign: Pool) -> None:
    foreign.await_ready()
    with start(foreign, "bash") as kernel:
        for how in ("message", "signal"):
            kernel.manager.kernel_spec.interrupt_mode = how
            cell = kernel.start("sleep 1000")
            until(lambda: "sleep" in programs_below(kernel.pid), "the cell sleeps")
            kernel.manager.interrupt_kernel()
            assert kernel.finish(cell).content["status"] != "ok"

        pid, port, key = kernel.pid, kernel.manager.shell_port, kernel.manager.session.key
        kernel.manager.restart_kernel()
        await_end(pid)
        kernel.client.wait_for_ready(timeout=60)
        assert kernel.run("echo again").text() == "again\n"
        assert (kernel.manager.shell_port, kernel.manager.session.key) == (port, key)
        assert not is_adopted(kernel)
        assert "ports are given" in json.dumps(foreign.status())
        kernel.manager.shutdown_kernel()
        assert not Path(kernel.manager.connection_file).exists()


def test_exit_status_is_known(foreign: Pool) -> None:
    foreign.await_ready()
    with start(foreign, "bash") as kernel:
        process = kernel.manager.provisioner.process
        os.kill(kernel.pid, signal.SIGSEGV)
        assert process.wait(60) == -signal.SIGSEGV


@pytest.mark.parametrize("name", ["bash", "savepoint"])
def test_kernel_of_a_start_that_is_cancelled_ends(foreign: Pool, name: str) -> None:
    warm(foreign, name)
    (pid,) = key_of(foreign.await_ready(), name)["standbys"]
    held = len(os.listdir("/proc/self/fd"))
    os.kill(pid, signal.SIGSTOP)  # it can't be handed out before this is over

    async def give_up() -> None:
        manager = AsyncKernelManager(kernel_name=name)
        start = asyncio.create_task(manager.start_kernel(env=foreign.env))
        await asyncio.to_thread(
            foreign.await_status,
            lambda status: pid not in key_of(status, name)["standbys"],
            "it is about to be handed out",
        )
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    asyncio.run(give_up())
    os.kill(pid, signal.SIGCONT)
    await_end(pid)
    until(lambda: len(os.listdir("/proc/self/fd")) == held, "nothing of it is held")


def test_adopted_kernel_ends_if_its_start_fails_later(foreign: Pool) -> None:
    async def fail() -> None:
        manager = AsyncKernelManager(kernel_name="bash")
        await manager.pre_start_kernel(env=foreign.env)
        await manager.cleanup_resources()

    (pid,) = key_of(foreign.await_ready(), "bash")["standbys"]
    asyncio.run(fail())
    await_end(pid)


@pytest.mark.parametrize("daemon", ["lives", "was killed"])
def test_adopted_kernel_ends_with_its_front_end(own_foreign: Pool, daemon: str) -> None:
    status = own_foreign.await_ready()
    (pid,) = key_of(status, "deno")["standbys"]
    with own_foreign.front_end(kernel="deno", stdout=None) as front_end:
        assert front_end.pid == pid
        idle = key_of(own_foreign.await_ready(), "deno")["standbys"]
        if daemon == "was killed":
            kill(status["pid"])
            for other in idle:
                await_end(other)
        with front_end.kernel() as kernel:
            assert answers(kernel)
        kill(front_end.process.pid)
        await_end(pid)


def test_detached_kernel_outlives_its_front_end_and_the_daemon(own_foreign: Pool) -> None:
    (pid,) = key_of(own_foreign.await_ready(), "deno")["standbys"]
    with own_foreign.front_end(kernel="deno", stdout=None, independent=True) as front_end:
        assert front_end.pid == pid
        kill(front_end.process.pid)
        own_foreign.stop()
        with front_end.kernel() as kernel:
            assert answers(kernel)
            assert alive(pid)


def test_kernels_are_guarded_again_when_the_guard_was_killed(own_foreign: Pool) -> None:
    with own_foreign.front_end(kernel="deno", stdout=None) as front_end:
        status = own_foreign.await_ready()
        (idle,) = key_of(status, "deno")["standbys"]

        def guards() -> list[psutil.Process]:
            children = psutil.Process(status["pid"]).children()
            return [child for child in children if child.pid not in (idle, front_end.pid)]

        (guard,) = guards()
        kill(guard.pid)
        until(lambda: guards() not in ([], [guard]), "there is another")
        kill(status["pid"])
        await_end(idle)
        assert alive(front_end.pid)
        kill(front_end.process.pid)
        await_end(front_end.pid)


@pytest.mark.parametrize("how", ["has ended", "does not wait"])
def test_all_processes_of_a_kernel_end_when_its_front_end(specs: Path, how: str) -> None:
    script = f"(trap '' TERM; exec sleep 1000) & exec {' '.join(SPECS['deno']['argv'])}"
    write_spec(specs, "deno", argv=["/bin/sh", "-c", script])
    with open_pool(configuration()) as pool:
        warm(pool, "deno")
        (pid,) = pool.key["standbys"]
        (child,) = psutil.Process(pid).children()
        if how == "has ended":
            with pool.front_end(kernel="deno", stdout=None) as front_end:
                assert front_end.pid == pid
                kill(front_end.process.pid)
        else:
            message = {"op": "adopt", **adoption_of(pool, "deno").as_message()}
            with connect(str(pool.directory)) as sock:
                orders.send(sock, message)
        await_end(pid)
        await_end(child.pid)
    write_spec(specs, "deno")


def test_kernel_is_adopted_by_one_of_two_that_ask_at_once(foreign: Pool) -> None:
    foreign.await_ready()
    adoption = adoption_of(foreign, "bash")
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(adopt_kernel, str(foreign.directory), adoption) for _ in range(2)]
        missed, adopted = sorted(asked, key=lambda one: one.exception() is None)
    assert isinstance(missed.exception(), PoolMissed)
    adopted.result().discard()


def test_kernels_that_end_or_are_outdated_are_replaced(own_foreign: Pool, specs: Path) -> None:
    (pid,) = key_of(own_foreign.await_ready(), "deno")["standbys"]
    kill(pid)
    own_foreign.await_status(lambda status: key_of(status, "deno")["died"] == 1, "it is counted")
    (pid,) = key_of(own_foreign.await_ready(), "deno")["standbys"]
    write_spec(specs, "deno")
    with start(own_foreign, "deno") as kernel:
        assert kernel.pid != pid
        assert key_of(own_foreign.await_ready(), "deno")["recycled"] == 1
        await_end(pid)


@pytest.mark.parametrize(
    ("reason", "options", "traits"),
    [
        ("extra arguments", {"extra_arguments": ["--debug"]}, {}),
        ("standard input or output of its own", {"stderr": subprocess.PIPE}, {}),
        ("pass_fds can't be had", {"pass_fds": ()}, {}),
        ("ipc://", {}, {"transport": "ipc"}),
        ("tcp://0.0.0.0", {}, {"ip": "0.0.0.0"}),
        ("encryption", {}, {"transport_encryption": "auto"}),
        ("not every language can quote", {"cwd": "$(echo)"}, {}),
    ],
)
def test_what_can_t_be_adopted_is_started_and_counted(
    foreign: Pool, tmp_path: Path, reason: str, options: Message, traits: Message
) -> None:
    foreign.await_ready()
    if "cwd" in options:
        options = {"cwd": str(tmp_path / options["cwd"])}
        os.mkdir(options["cwd"])
    manager = KernelManager(kernel_name="bash", **traits)
    with foreign.kernel(*options.pop("extra_arguments", ()), manager=manager, **options) as kernel:
        assert not is_adopted(kernel)
        status = foreign.status()
        assert status is not None
        assert reason in json.dumps(key_of(status, "bash")["misses"])
        assert directory_of(kernel) == str(options.get("cwd", os.getcwd()))


@pytest.mark.parametrize("name", ["team@work", "[exec]", "{x}", "a&b", "“a”", "a%d", "a\nb"])
def test_directory_that_could_be_read_as_code_is_refused(foreign: Pool, name: str) -> None:
    adoption = adoption_of(foreign, "bash")
    there = replace(adoption, order=replace(adoption.order, cwd=f"/tmp/{name}"))
    with pytest.raises(OrderRefused, match="not every language can quote"):
        there.handover_code()


def test_process_with_another_umask_starts_its_own(foreign: Pool) -> None:
    foreign.await_ready()
    before = os.umask(0o77)
    try:
        with start(foreign, "bash") as kernel:
            assert not is_adopted(kernel)
            assert kernel.run("umask").text() == "0077\n"
    finally:
        os.umask(before)


def test_limits_of_files_are_those_of_the_front_end(foreign: Pool) -> None:
    foreign.await_ready()
    own = psutil.Process()
    before = own.rlimit(psutil.RLIMIT_NOFILE)
    own.rlimit(psutil.RLIMIT_NOFILE, (before[0] - 1, before[1]))
    try:
        with start(foreign, "bash") as kernel:
            assert is_adopted(kernel)
            assert kernel.run("ulimit -n").text() == f"{before[0] - 1}\n"
    finally:
        own.rlimit(psutil.RLIMIT_NOFILE, before)


def test_limits_the_pool_can_t_raise_cost_no_kernel(specs: Path) -> None:
    with open_pool(configuration()) as pool:
        most = psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[1]
        jupyter = [sys.executable, "-m", "savepoint_manager.app"]
        limited = ["prlimit", f"--nofile={most - 1}:{most - 1}"]
        subprocess.run([*limited, *jupyter, "pool", "start"], env=pool.env, check=True)
        warm(pool, "deno")
        with start(pool, "deno") as kernel:
            assert not is_adopted(kernel)
        assert "its RLIMIT_NOFILE may be higher than the pool's" in pool.key["misses"]
        assert pool.key["created"] == 1


def test_kernels_to_adopt_and_standbys_make_room_for_their_own_kind_only(
    specs: Path, tmp_path: Path
) -> None:
    with open_pool(configuration({"deno": ""}) + "c.Pool.max_keys = 1\n") as pool:
        warm(pool, "savepoint")
        (standby,) = pool.key["standbys"]
        directories = [tmp_path / "a", tmp_path / "b"]
        for directory in directories:
            directory.mkdir()
            with start(pool, "deno", cwd=str(directory)):
                pass
        status = pool.await_ready()
        assert [key["cwd"] for key in status["keys"]] == ["/", str(directories[1])]
        assert key_of(status, "savepoint")["standbys"] == [standby]


def test_environment_is_the_front_end_s_or_it_is_another_key(foreign: Pool) -> None:
    foreign.await_ready()
    say = "echo $TOKEN $JPY_SESSION_NAME."
    with start(foreign, "bash", env={**foreign.env, "JPY_SESSION_NAME": "a.ipynb"}) as kernel:
        assert is_adopted(kernel)
        assert kernel.run(say).text() == ".\n"
    env = {**foreign.env, "TOKEN": "secret"}
    with start(foreign, "bash", env=env) as kernel:
        assert not is_adopted(kernel)
        assert kernel.run(say).text() == "secret .\n"
    status = foreign.await_ready()
    with start(foreign, "bash", env=env) as kernel:
        assert is_adopted(kernel)
        assert kernel.run(say).text() == "secret .\n"
    assert "TOKEN" in json.dumps(status)
    assert "secret" not in json.dumps(status)
    assert "secret" not in foreign.log
    assert kernel.manager.session.key.decode() not in foreign.log


@pytest.fixture
def ours_by_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernelspecs that name no provisioner get ours; the factory reads the variable once."""
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "savepoint-provisioner")
    KernelProvisionerFactory.clear_instance()
    yield
    KernelProvisionerFactory.clear_instance()


@pytest.mark.usefixtures("ours_by_default")
@pytest.mark.parametrize("how", ["by default", "without code", "with code that fails"])
def test_code_for_the_hand_over_is_the_user_s(specs: Path, tmp_path: Path, how: str) -> None:
    code = {
        "by default": CODE["deno"],
        "without code": "",
        "with code that fails": "throw new Error({cwd})",
    }
    (tmp_path / "deno.json").write_text('{"imports": {"mine": "./mine.ts"}}')
    (tmp_path / "mine.ts").write_text("export const answer = 42;")
    write_spec(specs, "deno", metadata={})
    with open_pool(configuration({"deno": code[how]})) as pool:
        for adopted in (False, how != "with code that fails"):
            with start(pool, "deno", cwd=str(tmp_path)) as kernel:
                assert is_adopted(kernel) == adopted
                assert directory_of(kernel) == str(tmp_path)
                imported = kernel.run('import { answer } from "mine";').content["status"]
                assert imported == ("error" if adopted and how == "by default" else "ok")
            status = pool.await_ready()
        assert ("hand-over (c.Pool.adopt) failed" in json.dumps(status)) != adopted
        assert key_of(status, "deno")["cwd"] == (str(tmp_path) if how == "without code" else "/")
    write_spec(specs, "deno")


def test_code_that_does_not_end_is_given_up(specs: Path) -> None:
    hangs = "c.Pool.acquire_timeout = 0.1\n" + configuration({"deno": "for (;;) {}"})
    with open_pool(hangs) as pool:
        warm(pool, "deno")
        adoption = adoption_of(pool, "deno")
        for _ in range(MAX_LOSSES + 1):
            pool.await_ready()
            with pytest.raises(PoolMissed, match=r"did not end within 0\.1 s"):
                adopt_kernel(str(pool.directory), adoption)
        assert "the code for the hand-over (c.Pool.adopt) did not end" in pool.key["problem"]


def test_what_can_never_be_adopted_is_no_reason_for_a_pool_or_key(specs: Path) -> None:
    with open_pool(configuration()) as pool:
        with start(pool, "deno", ip="0.0.0.0") as kernel:
            assert not is_adopted(kernel)
        assert pool.status() is None
        warm(pool, "deno")
        never = replace(adoption_of(pool, "deno"), code="", unfit="a reason")
        with pytest.raises(PoolMissed, match="a reason"):
            adopt_kernel(str(pool.directory), never)
        status = pool.status()
        assert status is not None
        assert len(status["keys"]) == 1


def test_connection_file_is_its_owner_s_and_may_share_an_argument(specs: Path) -> None:
    bash = " ".join(SPECS["bash"]["argv"])
    script = f"stat -c %a {{connection_file}} >{{resource_dir}}/mode; exec {bash}"
    path = write_spec(specs, "bash", argv=["/bin/sh", "-c", script])
    with open_pool(configuration()) as pool:
        pool.directory.mkdir(mode=0o700)
        somebody_s = pool.directory / "kernel-1.json"
        somebody_s.touch()
        warm(pool, "bash")
        assert path.with_name("mode").read_text() == "600\n"
        with start(pool, "bash") as kernel:
            assert is_adopted(kernel)
        assert somebody_s.exists()
    write_spec(specs, "bash")


@pytest.mark.parametrize("code", [{}, {"bash": ""}, "a mistake"])
def test_pool_is_not_asked_for_what_the_user_has_not_named(specs: Path, code: object) -> None:
    with open_pool(configuration(code)) as pool, start(pool, "deno") as kernel:
        assert answers(kernel)
        assert pool.status() is None
        assert not pool.directory.exists()


def test_front_end_s_log_goes_on(specs: Path, tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log", mode="w")
    logging.getLogger().addHandler(handler)
    try:
        loud = "c.Application.log_level = 'DEBUG'\n"
        with open_pool(configuration({}) + loud) as pool, start(pool, "bash"):
            logging.warning("after the start")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    assert "after the start" in (tmp_path / "log").read_text()


def test_kernel_that_does_not_start_is_given_up(specs: Path) -> None:
    write_spec(specs, "deno", argv=["/no/such/program", "{connection_file}"])
    with open_pool(configuration()) as pool:
        done = subprocess.run(
            [sys.executable, "-m", "savepoint_manager.app", "pool", "warm", "deno"],
            env=pool.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "No such file or directory: '/no/such/program'" in done.stderr
        until(lambda: not list(pool.directory.glob("adopt-*.json")), "no key is left in a file")
    write_spec(specs, "deno")


def test_kernel_that_must_be_in_a_sandbox_is_not_adopted(foreign: Pool) -> None:
    manager = KernelManager(kernel_name="deno")
    sandbox = {**PROVISIONER["kernel_provisioner"], "config": {"isolation": "sandbox"}}
    manager.kernel_spec.metadata = {"kernel_provisioner": sandbox}
    with pytest.raises(SandboxUnavailable, match="Only Savepoint's kernels"):
        manager.start_kernel(env=foreign.env)
    manager.context.destroy(linger=0)
