"""The pool is for one user, and takes nothing that it does not understand."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from savepoint_kernel import orders
from savepoint_manager.pool.client import connect, spawn_daemon

from .harness import Pool, until

ROOT = os.getuid() == 0

AS_NOBODY = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.settimeout(60)
try:
    sock.connect(sys.argv[1])
    sock.send(b'{"op": "status"}')
    print(sock.recv(100000).decode())
except OSError as error:
    print(type(error).__name__)
"""


def test_directory_and_socket_are_the_user_s(pool: Pool) -> None:
    pool.have_standbys()
    modes = {path.name: path.stat().st_mode & 0o777 for path in pool.directory.iterdir()}
    assert modes == {"pool.sock": 0o600, "pool.log": 0o600, "pool.lock": 0o600}
    assert pool.directory.stat().st_mode & 0o777 == 0o700


def test_another_user_gets_no_answer(own_pool: Pool) -> None:
    own_pool.have_standbys()
    address = own_pool.directory / "pool.sock"
    if not ROOT:  # only root can become somebody else: the rest is the modes' to guarantee
        return

    def ask_as_nobody() -> str:
        command = [sys.executable, "-c", AS_NOBODY, str(address)]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    assert ask_as_nobody() == "PermissionError\n"
    for path, mode in ((own_pool.directory.parent, 0o755), (own_pool.directory, 0o755)):
        path.chmod(mode)
    address.chmod(0o666)
    assert "keys" not in ask_as_nobody()
    assert "Refused: user 65534 is not 0" in own_pool.log
    own_pool.directory.chmod(0o700)
    assert own_pool.status()


def test_directory_of_another_user_is_not_used(own_pool: Pool, tmp_path: Path) -> None:
    directory = Path("/usr")
    if ROOT:
        directory = own_pool.directory
        directory.mkdir(mode=0o700)
        os.chown(directory, 65534, 65534)
    with spawn_daemon(str(directory)) as sock:
        assert orders.receive(sock) == ({}, [])
    with own_pool.kernel(env={**own_pool.env, "SAVEPOINT_POOL_DIR": str(directory)}) as kernel:
        assert kernel.eval("6 * 7") == "42"
    assert not (directory / "pool.sock").exists()


def test_directory_open_to_others_is_not_used_and_left_as_it_is(own_pool: Pool) -> None:
    own_pool.directory.mkdir(mode=0o755)
    own_pool.directory.chmod(0o755)
    with spawn_daemon(str(own_pool.directory)) as sock:
        assert orders.receive(sock) == ({}, [])
    assert own_pool.directory.stat().st_mode & 0o777 == 0o755
    assert not list(own_pool.directory.iterdir())


def test_pool_of_another_user_is_not_asked(own_pool: Pool) -> None:
    """Somebody else's socket in our directory: what is sent there has the whole environment."""
    if not ROOT:
        return
    own_pool.directory.mkdir(mode=0o700)
    address = str(own_pool.directory / "pool.sock")
    listening = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.bind(sys.argv[1]); os.setuid(65534); s.listen(9); print(flush=True);"
        "c = s.accept()[0]; print(len(c.recv(300000)), flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", listening, address], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    with own_pool.kernel() as kernel:
        assert kernel.eval("6 * 7") == "42"
    out, _ = process.communicate(timeout=60)
    assert out == "0\n"


def malformed(pool: Pool) -> list[bytes]:
    order = {"op": "launch", **pool.order()}

    def changed(**parts: object) -> bytes:
        return json.dumps({**order, **parts}).encode()

    return [
        b"\xff",
        b"not JSON",
        b"[]",
        b"null",
        b"17",
        b"[" * 100_000,
        b"{}",
        b'{"op": null}',
        b'{"op": ["launch"]}',
        b'{"op": "launch"}',
        changed(protocol=2),
        changed(protocol=None),
        changed(env={"A": 1}),
        changed(env={"A=B": "1"}),
        changed(env={"": "1"}),
        changed(env={"A\0B": "1"}),
        changed(env={"A": "1\0"}),
        changed(env=[]),
        changed(executable=17),
        changed(options="-Xfrozen_modules=off"),
        changed(arguments=[17]),
        changed(cwd=None),
        changed(cwd="\ud800"),
        changed(env={"A": "\ud800"}),
        changed(detached="yes"),
        changed(op="warm", min_idle="many"),
        changed(op="warm", min_idle=-1),
        changed(op="warm", preload=[1]),
        changed(env={"A": 205_000 * "x"}),
    ]


def test_malformed_requests_are_refused_and_leave_nothing(own_pool: Pool) -> None:
    own_pool.have_standbys()
    daemon = psutil.Process(own_pool.await_ready(2)["pid"])
    before = daemon.num_fds()
    with open(os.devnull) as null:
        for data in malformed(own_pool):
            for count in (0, 3, 4, 9):
                with connect(str(own_pool.directory)) as sock:
                    rights = array.array("i", [null.fileno()] * count)
                    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                    answer, _ = orders.receive(sock)
                    assert "pid" not in answer, data[:100]
                    assert "ready" not in answer, data[:100]
        with connect(str(own_pool.directory)) as sock:
            rights = array.array("i", [null.fileno()] * 3)
            sock.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        with connect(str(own_pool.directory)):
            pass  # asks nothing
    with own_pool.warm_kernel() as kernel:
        assert kernel.eval("6 * 7") == "42"
    own_pool.await_status(
        lambda status: status["kernels"] == 0 and len(status["keys"][0]["standbys"]) == 2,
        "no kernel is left",
    )
    until(lambda: daemon.num_fds() <= before, f"{before} descriptors are left")
    assert "Traceback" not in own_pool.log


def test_key_is_seen_nowhere(pool: Pool) -> None:
    with pool.warm_kernel() as kernel:
        secret = json.loads(Path(kernel.manager.connection_file).read_text())["key"]
        assert secret
        status = pool.status()
        assert status is not None
        for pid in (status["pid"], kernel.pid, *(key["zygote"] for key in status["keys"])):
            assert secret not in Path(f"/proc/{pid}/cmdline").read_text()
            assert secret not in Path(f"/proc/{pid}/environ").read_text()
        assert secret not in pool.log
        assert secret not in json.dumps(status)
