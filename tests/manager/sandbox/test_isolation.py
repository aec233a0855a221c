"""What code in a sandbox can't do, tried by code in a sandbox."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_runtime_dir

from tests.kernel.harness import Kernel
from tests.manager.pool.harness import Pool, environ, open_pool

from .harness import processes_of, root_of, sandboxed


@contextmanager
def listening(family: int, address: object) -> Iterator[object]:
    with socket.socket(family) as server:
        server.bind(address)  # type: ignore[arg-type]
        server.listen()
        yield server.getsockname()


def failure(kernel: Kernel, code: str) -> str:
    """Return the name of the error that code ends with."""
    result = kernel.run(code)
    assert result.content["status"] == "error", result.iopub
    return f"{result.content['ename']}: {result.content['evalue']}"


def test_no_network(kernel: Kernel) -> None:
    code = "socket.create_connection(('192.0.2.1', 80), 5)"
    assert "Network is unreachable" in failure(kernel, code)
    with listening(socket.AF_INET, ("127.0.0.1", 0)) as address:
        code = f"socket.create_connection({address!r}, 5)"
        assert "Connection refused" in failure(kernel, code)
    with listening(socket.AF_UNIX, "\0savepoint-test") as address:
        code = f"socket.socket(socket.AF_UNIX).connect({address!r})"
        assert "Connection refused" in failure(kernel, code)


@pytest.mark.parametrize("place", ["/", "/etc", "/usr", sys.prefix, "."])
def test_nothing_is_written_outside(kernel: Kernel, place: str) -> None:
    for code in (f"Path({place!r}, 'new').write_text('')", f"os.utime({place!r})"):
        assert "Read-only file system" in failure(kernel, code)


def test_system_is_not_tuned_though_root_owns_its_settings(kernel: Kernel) -> None:
    settings = Path("/proc/sys/kernel/core_pattern")
    code = f"Path({str(settings)!r}).write_text({settings.read_text()!r})"
    assert failure(kernel, code).startswith(("OSError: [Errno 30]", "PermissionError"))


def test_temporary_files_and_home_are_the_session_s_own(
    kernel: Kernel, other: Kernel, home: Path, tmp_path: Path
) -> None:
    for place, there in (("/tmp", "tmp"), (str(home), "home")):
        kernel.ok(f"Path({place!r}, 'mine').write_text('mine')")
        assert not Path(place, "mine").exists()
        assert other.eval(f"Path({place!r}, 'mine').exists()") == "False"
        assert (root_of(kernel.manager) / there / "mine").read_text() == "mine"
    assert kernel.eval(f"Path({str(tmp_path)!r}).exists()") == "False"
    assert kernel.eval("Path('~/.ssh').expanduser().exists()") == "False"
    assert kernel.eval("os.path.expanduser('~')") == repr(str(home))


def test_session_can_t_see_another_s_directory(kernel: Kernel, other: Kernel) -> None:
    root = root_of(other.manager)
    assert kernel.eval(f"Path({str(root)!r}).exists()") == "False"
    assert kernel.eval(f"sorted(os.listdir({str(root.parent)!r}))").count("savepoint-") == 1


def test_session_can_t_signal_another(kernel: Kernel, other: Kernel) -> None:
    assert kernel.eval("sorted(int(n) for n in os.listdir('/proc') if n.isdigit())") == "[1, 2]"
    for pid in (*processes_of(other.pid), os.getpid()):
        assert "ProcessLookupError" in failure(kernel, f"os.kill({pid}, 0)")
    assert "ProcessLookupError" in failure(kernel, "os.kill(-1, 0)")  # all there are


@pytest.mark.parametrize("directory", ["read-only", "writable"])
def test_keys_of_other_kernels_are_covered_where_they_are_shown(
    other: Kernel, tmp_path: Path, directory: str
) -> None:
    """Both by their own path and by one that leads there."""
    runtime = Path(jupyter_runtime_dir())
    alias = tmp_path / "alias"
    alias.symlink_to(runtime.parent)
    for cwd in (runtime.parent, alias):
        with sandboxed(cwd, sandbox_directory=directory) as kernel:
            kernel.ok("import os")
            own, its = (Path(k.manager.connection_file).name for k in (kernel, other))
            assert (runtime / its).exists()
            listed = f"[n for n in os.listdir({runtime.name!r}) if n != {own!r}]"
            assert kernel.eval(listed) == "[]"
            assert "Read-only" in failure(kernel, f"open('{runtime.name}/new', 'w')")


def test_keys_of_other_kernels_are_not_there_otherwise(kernel: Kernel, other: Kernel) -> None:
    own, its = (Path(k.manager.connection_file) for k in (kernel, other))
    assert kernel.eval(f"os.listdir({str(its.parent)!r})") == repr([own.name])


def test_packages_in_a_writable_directory_are_not_for_writing(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    env = environ(PYTHONPATH=f"{tmp_path / 'packages'}:{os.environ.get('PYTHONPATH', '')}")
    with sandboxed(tmp_path, env, sandbox_directory="writable") as kernel:
        kernel.ok("open('new', 'w')")
        assert "Read-only" in failure(kernel, "open('packages/new', 'w')")


def test_pool_is_out_of_reach_and_not_asked(notebooks: Path) -> None:
    """Even if it is in the directory that is shown."""
    with open_pool() as pool:
        inside = Pool(notebooks / "pool", pool.config_directory)
        inside.have_standbys()
        try:
            before = inside.hits()
            with sandboxed(notebooks, inside.env) as kernel:
                assert inside.hits() == before
                kernel.ok("import socket")
                address = str(inside.directory / "pool.sock")
                code = "socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)"
                assert "No such file" in failure(kernel, f"{code}.connect({address!r})")
                assert kernel.eval("open('data.csv').read()") == "'1,2'"
        finally:
            inside.stop()


def test_environment_has_no_secrets(kernel: Kernel) -> None:
    assert kernel.eval("'CLOUD_TOKEN' in os.environ") == "False"
    code = "any(b'xyzzy' in p.read_bytes() for p in Path('/proc').glob('[0-9]*/environ'))"
    assert kernel.eval(code) == "False"
    assert kernel.eval("(os.environ['TZ'], os.environ['OMP_NUM_THREADS'])") == (
        "('Asia/Tokyo', '3')"
    )


def test_no_privileges(kernel: Kernel) -> None:
    kernel.ok(
        "status = dict(l.split(':\\t') for l in Path('/proc/self/status').read_text().splitlines())"
    )
    assert kernel.eval("[int(status[n], 16) for n in status if n.startswith('Cap')]") == (
        "[0, 0, 0, 0, 0]"
    )
    assert kernel.eval("status['NoNewPrivs']") == "'1'"
    # Not in the kernel's own process: one with threads can't have a namespace of users anywhere.
    kernel.ok("import subprocess")
    assert kernel.eval("subprocess.run(['unshare', '--user', 'true']).returncode != 0") == "True"
