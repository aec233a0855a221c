"""A kernel in a sandbox is a kernel as any: interrupts, restarts, ends, options."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from savepoint_kernel.kernelspec import kernel_spec
from savepoint_manager.exceptions import SandboxUnavailable
from tests.kernel.harness import Kernel
from tests.manager.pool.harness import Pool, alive, await_end, connected, environ

from .harness import manager_of, processes_of, root_of, sandboxed

HARD_TO_REMOVE = """
import os, subprocess
subprocess.Popen(["sleep", "600"], start_new_session=True)
os.chdir(os.path.expanduser("~"))
os.makedirs("locked/inner")
os.chmod("locked", 0)
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
os.chdir("/")
"""

INSTALL = """
from savepoint_kernel.kernelspec import install
install(prefix=os.environ["PLACE"], kernel_name="savepoint", sandbox=True)
"""


def test_interrupt_ends_the_cell_and_its_children(kernel: Kernel) -> None:
    cell = kernel.start("import subprocess\nprint('on')\nsubprocess.run(['sleep', '600'])")
    kernel.stream(cell, "on")
    kernel.manager.interrupt_kernel()
    assert kernel.finish(cell).content["ename"] == "KeyboardInterrupt"
    assert kernel.eval("6 * 7") == "42"


def test_files_and_timeline_outlive_a_restart_and_not_the_session() -> None:
    with sandboxed() as kernel:
        root = root_of(kernel.manager)
        assert root.stat().st_mode & 0o777 == 0o700
        kernel.ok("from pathlib import Path\nPath.home().joinpath('kept').touch()")
        kernel.ok("kept = 17")
        kernel.ok("%checkpoint before")
        for now in (False, True):
            pids = processes_of(kernel.pid)
            kernel.manager.restart_kernel(now=now)
            assert not any(map(alive, pids))
            with connected(kernel.manager) as again:
                again.ok("%restore before")
                assert again.eval("kept, Path.home().joinpath('kept').exists()") == "(17, True)"
        with connected(kernel.manager) as again:
            again.ok(HARD_TO_REMOVE)
        pids = processes_of(kernel.pid)
        assert len(pids) == 5
    assert not any(map(alive, pids))
    assert not root.exists()
    assert not os.path.exists(kernel.manager.connection_file)


def test_restart_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text('#!/bin/sh\n[ "$1" = --help ]')
    broken.chmod(0o700)
    with sandboxed() as kernel:
        kernel.ok("from pathlib import Path\nPath.home().joinpath('kept').touch()")
        with monkeypatch.context() as today:
            today.setenv("PATH", str(tmp_path), prepend=os.pathsep)
            with pytest.raises(SandboxUnavailable):
                kernel.manager.restart_kernel(now=True)
        kernel.manager.restart_kernel(now=True)
        with connected(kernel.manager) as again:
            again.ok("from pathlib import Path")
            assert again.eval("Path.home().joinpath('kept').exists()") == "True"


def test_second_session_of_a_manager_has_another_sandbox_and_may_be_encrypted() -> None:
    manager = manager_of()
    manager.context, manager._created_context = zmq.Context(), False  # it can't be used twice
    roots = set()
    for encryption in ("disabled", "required"):
        manager.start_kernel(env=environ(), transport_encryption=encryption)
        roots.add(root_of(manager))
        with connected(manager) as kernel:
            assert kernel.eval("6 * 7") == "42"
        manager.shutdown_kernel()
    manager.context.destroy(linger=0)
    assert len(roots) == 2
    assert not any(root.exists() for root in roots)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("os._exit(3)", 3),
        ("os._exit(128 + signal.SIGSTOP)", 128 + signal.SIGSTOP),  # a signal, but no end
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    ],
)
def test_end_is_told_as_it_was(code: str, status: int) -> None:
    with sandboxed() as kernel:
        process = kernel.manager.provisioner.process
        kernel.start(f"import os, signal\n{code}")
        await_end(process.pid)
        assert process.wait() == status


def test_output_goes_to_the_front_end_s_log_which_is_out_of_reach(tmp_path: Path) -> None:
    log = tmp_path / "front-end.log"
    manager = manager_of()
    with log.open("a") as stream:
        manager.start_kernel(env=environ(), stdout=stream, stderr=stream)
    process = manager.provisioner.process
    with connected(manager) as kernel:
        for pid in processes_of(process.pid)[1:]:
            assert str(log) not in map(os.path.realpath, Path(f"/proc/{pid}/fd").iterdir())
        kernel.ok("get_ipython().kernel.log.warning('heard')")
    manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)
    assert "heard" in log.read_text()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A front end's environment, which has no other kernelspec of this name."""
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    return Pool(tmp_path / "pool", tmp_path / "config")


def test_nothing_is_left_of_a_front_end_that_was_killed(elsewhere: Pool) -> None:
    with elsewhere.front_end(INSTALL) as front_end:
        with front_end.kernel() as kernel:
            assert kernel.eval("__import__('os').getpid()") == "2"
        root = Path(json.loads(Path(front_end.connection_file).read_text())["ip"]).parents[1]
        assert root.exists()
        pids = processes_of(front_end.pid)
        front_end.process.kill()
        for pid in pids:
            await_end(pid)
        assert not root.exists()


def test_what_is_left_if_the_supervisor_is_killed_too_goes_with_the_next_session(
    kernel: Kernel, elsewhere: Pool
) -> None:
    with elsewhere.front_end(INSTALL) as front_end:
        root = Path(json.loads(Path(front_end.connection_file).read_text())["ip"]).parents[1]
        pids = processes_of(front_end.pid)
        os.kill(front_end.pid, signal.SIGSTOP)
        front_end.process.kill()
        front_end.process.wait()
        os.kill(front_end.pid, signal.SIGKILL)
        for pid in pids:
            await_end(pid)
        assert root.exists()
    with sandboxed():
        assert not root.exists()
        assert root_of(kernel.manager).exists()


def test_independent_kernel_outlives_its_front_end_and_then_leaves_nothing(
    elsewhere: Pool,
) -> None:
    with elsewhere.front_end(INSTALL, independent=True) as front_end:
        with front_end.kernel() as kernel:
            root = Path(json.loads(Path(front_end.connection_file).read_text())["ip"]).parents[1]
            front_end.process.kill()
            front_end.process.wait()
            assert kernel.eval("6 * 7") == "42"
            kernel.send("shutdown_request", {"restart": False}, channel="control")
            await_end(front_end.pid)
        assert not root.exists()


def test_directory_is_read_only_unless_told_otherwise(
    kernel: Kernel, home: Path, notebooks: Path
) -> None:
    assert kernel.eval("os.getcwd(), open('data.csv').read()") == f"({str(notebooks)!r}, '1,2')"
    env = environ(HOME=str(home))
    with sandboxed(notebooks, env, sandbox_directory="writable") as writing:
        writing.ok("open('out.csv', 'w').write('3')")
    assert (notebooks / "out.csv").read_text() == "3"
    with sandboxed(notebooks, env, sandbox_directory="hidden") as hidden:
        assert hidden.eval("__import__('os').getcwd()") == repr(str(home))
        assert hidden.eval(f"__import__('os').path.exists({str(notebooks)!r})") == "False"


def test_home_is_not_shown_as_the_directory_either(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with sandboxed(home, environ(HOME=str(home)), sandbox_directory="writable") as kernel:
        assert kernel.eval("__import__('os').path.exists('.ssh')") == "False"
    assert f"Jupyter's own files in it: {home}" in caplog.text


def test_more_can_be_shown_and_let_in(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("4")
    manager = manager_of(
        env={"GIVEN": "by the kernelspec"},
        sandbox_show=[str(tmp_path)],
        sandbox_variables=["WANTED"],
    )
    manager.start_kernel(env=environ(WANTED="1", UNWANTED="2"))
    with connected(manager) as kernel:
        kernel.ok("import os")
        assert kernel.eval(f"open({str(tmp_path / 'data.csv')!r}).read()") == "'4'"
        names = "[os.environ.get(n) for n in ('GIVEN', 'WANTED', 'UNWANTED')]"
        assert kernel.eval(names) == "['by the kernelspec', '1', None]"
    manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


# -- no sandbox, no kernel


def refused(manager: object) -> str:
    with pytest.raises(SandboxUnavailable) as refusal:
        manager.start_kernel(env=environ())  # type: ignore[attr-defined]
    return str(refusal.value)


def test_without_bubblewrap_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "sudo apt install bubblewrap" in refused(manager_of())


def test_other_kernels_are_not_started() -> None:
    manager = manager_of()
    manager.kernel_spec.argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert "Only Savepoint's kernels" in refused(manager)
    assert not root_of(manager).exists()


def test_where_there_are_no_namespaces_bubblewrap_is_quoted() -> None:
    """Inside of a sandbox that allows no other."""
    script = (
        "from tests.manager.sandbox.harness import manager_of\n"
        "try: manager_of().start_kernel()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    wall = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--disable-userns"]
    found = subprocess.run(
        [*wall, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert found.startswith("SandboxUnavailable bubblewrap can't make a sandbox here: bwrap: ")
    assert "When it can't start" in found


@pytest.mark.parametrize("config", [{}, {"isolation": "process"}])
def test_kernelspec_that_lost_its_isolation_starts_nothing(config: dict[str, str]) -> None:
    manager = manager_of()
    manager.kernel_spec.metadata["kernel_provisioner"]["config"] = config
    assert 'there is no "isolation": "sandbox"' in refused(manager)


def test_front_end_that_knows_no_provisioners_is_refused() -> None:
    argv = [
        part.format(connection_file="/tmp/none.json") for part in kernel_spec(sandbox=True)["argv"]
    ]
    ended = subprocess.run(argv, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert "front end on jupyter_client" in ended.stderr
