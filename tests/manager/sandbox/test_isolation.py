"""What code in a sandbox can't do, tried by code in a sandbox."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_runtime_dir

from savepoint_manager.exceptions import SandboxUnavailable
from savepoint_manager.sandbox import seccomp
from tests.kernel.harness import Kernel
from tests.manager.pool.harness import Pool, connected, environ, open_pool

from .harness import manager_of, processes_of, root_of, sandboxed


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


def test_calls_that_no_namespace_confines(kernel: Kernel) -> None:
    assert "Address family not supported" in failure(kernel, "socket.socket(socket.AF_VSOCK)")
    kernel.ok(
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def error_of(number, *arguments):\n"
        "    ctypes.set_errno(0)\n"
        "    libc.syscall(number, *arguments)\n"
        "    return os.strerror(ctypes.get_errno())"
    )
    _, keys, io_uring, _ = seccomp._NUMBERS[os.uname().machine]
    for number in keys:
        assert kernel.eval(f"error_of({number}, 0, 0, 0, 0, 0)") == "'Operation not permitted'"
    for number in (io_uring, seccomp._X32):
        assert kernel.eval(f"error_of({number}, 0, 0)") == "'Function not implemented'"


@pytest.mark.parametrize("place", ["/", "/dev", "/etc", "/usr", sys.prefix, "."])
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


def python_path(*places: Path) -> str:
    return os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("spelled", ["project", "alias"])
def test_packages_in_a_writable_directory_are_not_for_writing(tmp_path: Path, spelled: str) -> None:
    """Nor to be replaced: they are imported outside as well."""
    (tmp_path / "project" / "lib" / "packages").mkdir(parents=True)
    (tmp_path / "alias").symlink_to(tmp_path / "project")
    env = environ(PYTHONPATH=python_path(tmp_path / "project" / "lib" / "packages"))
    with sandboxed(tmp_path / spelled, env, sandbox_directory="writable") as kernel:
        kernel.ok("import os\nopen('lib/new', 'w')\nos.rename('lib/new', 'lib/newer')")
        assert "Read-only" in failure(kernel, "open('lib/packages/new', 'w')")
        for place in ("lib", "lib/packages"):
            assert "busy" in failure(kernel, f"os.rename({place!r}, {place + '2'!r})")


@pytest.mark.parametrize("place", [".", "missing", "link", "link/packages"])
def test_directory_with_packages_that_could_be_replaced_is_not_writable(
    tmp_path: Path, place: str
) -> None:
    elsewhere, project = tmp_path / "elsewhere", tmp_path / "project"
    (elsewhere / "packages").mkdir(parents=True)
    project.mkdir()
    (project / "link").symlink_to(elsewhere)
    env = environ(PYTHONPATH=python_path(project / place))
    with (
        pytest.raises(SandboxUnavailable, match=f"{project} can't be writable"),
        sandboxed(project, env, sandbox_directory="writable"),
    ):
        pass


def test_restart_runs_nothing_outside(tmp_path: Path) -> None:
    packages, ran = tmp_path / "packages", tmp_path / "ran"
    packages.mkdir()
    with sandboxed(env=environ(PYTHONPATH=python_path(packages))) as kernel:
        (packages / "sitecustomize.py").write_text(
            f"try: open({str(ran)!r}, 'w')\nexcept OSError: pass"
        )
        kernel.manager.restart_kernel(now=True)
        with connected(kernel.manager) as again:
            assert again.eval("'sitecustomize' in __import__('sys').modules") == "True"
    assert not ran.exists()


@pytest.mark.parametrize("place", ["notebooks", "session"])
def test_link_that_a_session_leaves_is_not_followed_outside(tmp_path: Path, place: str) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "work" / "notebooks").mkdir(parents=True)
    outside.mkdir()
    with sandboxed(home / "work" / "notebooks", environ(HOME=str(home))) as kernel:
        way = home / "work" if place == "notebooks" else root_of(kernel.manager)
        # Where bubblewrap has the system while it makes a sandbox.
        kernel.ok(
            "import os\n"
            f"os.rename({str(way)!r}, {str(way) + '2'!r})\n"
            f"os.symlink({'/oldroot' + str(outside)!r}, {str(way)!r})"
        )
        with pytest.raises(SandboxUnavailable, match="has put a link on the way to"):
            kernel.manager.restart_kernel(now=True)
    assert not any(outside.iterdir())


def test_packages_behind_a_link_are_found_and_a_site_that_prints_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text("print('[hello', end='')")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "link").symlink_to(tmp_path / "packages")
    env = environ(PYTHONPATH=python_path(tmp_path / "project" / "link"))
    with sandboxed(tmp_path / "project", env) as kernel:
        assert kernel.eval("'sitecustomize' in __import__('sys').modules") == "True"


def test_links_to_the_interpreter_are_shown_without_what_is_beside_them(
    home: Path, tmp_path: Path
) -> None:
    """As those of version managers, in the home directory and elsewhere."""
    (home / ".local" / "bin").mkdir(parents=True)
    (home / ".local" / "keyring").write_text("SECRET")
    (tmp_path / "bin").mkdir()
    (tmp_path / "keyring").write_text("SECRET")
    first, second = home / ".local" / "bin" / "python3", tmp_path / "bin" / "python3"
    first.symlink_to(second)
    second.symlink_to(os.path.realpath(sys.executable))
    environment = tmp_path / "environment"
    subprocess.run([first, "-m", "venv", "--without-pip", "--symlinks", environment], check=True)
    manager = manager_of()
    manager.kernel_spec.argv[0] = str(environment / "bin" / "python")
    env = environ(HOME=str(home), PYTHONPATH=python_path(*map(Path, filter(None, sys.path))))
    manager.start_kernel(env=env)
    for now in (False, True):
        with connected(manager) as kernel:
            kernel.ok("import os, sys")
            assert kernel.eval("sys.prefix") == repr(str(environment))
            for place in (first, second):
                assert kernel.eval(f"os.path.islink({str(place)!r})") == "True"
                secret = place.parents[1] / "keyring"
                assert secret.exists()
                assert kernel.eval(f"os.path.exists({str(secret)!r})") == "False"
        manager.restart_kernel(now=now)
    manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


@pytest.mark.parametrize("directory", ["read-only", "writable"])
def test_pool_that_is_made_later_is_out_of_reach(tmp_path: Path, directory: str) -> None:
    env = environ(SAVEPOINT_POOL_DIR=str(tmp_path / "run" / "pool"))
    with sandboxed(tmp_path, env, sandbox_directory=directory) as kernel:
        pool = tmp_path / "run" / "pool"
        assert pool.stat().st_mode & 0o777 == 0o700
        (pool / "pool.sock").touch()
        kernel.ok("import os")
        assert kernel.eval("os.listdir('run/pool')") == "[]"
        error = "busy" if directory == "writable" else "Read-only"
        assert error in failure(kernel, "os.rename('run', 'run2')")


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
