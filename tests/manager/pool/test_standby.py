"""What waits in the pool is nobody's yet."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from .harness import Pool


def test_standby_has_no_channel_and_no_history(pool: Pool, tmp_path: Path) -> None:
    env = {**pool.env, "IPYTHONDIR": str(tmp_path)}
    pool.have_standbys(env=env)
    for key in pool.await_ready()["keys"]:
        for pid in key["standbys"]:
            process = psutil.Process(pid)
            # The one by which ipykernel takes output of processes forked by user code.
            (forks,) = process.net_connections("inet")
            assert forks.laddr.ip == "127.0.0.1"
            assert [c.laddr for c in process.net_connections("unix") if c.laddr] == []
    assert not list(tmp_path.rglob("history.sqlite"))


def test_nothing_of_the_pool_is_a_kernel_s_connection(pool: Pool) -> None:
    pool.have_standbys()
    (pid, *_) = pool.key["standbys"]
    opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert not [name for name in opened if name.endswith((".json", ".sqlite", ".sock", ".lock"))]
    assert str(pool.directory / "pool.log") in opened


def test_zygote_has_one_thread(pool: Pool) -> None:
    pool.have_standbys()
    for key in pool.await_ready()["keys"]:
        assert os.listdir(f"/proc/{key['zygote']}/task") == [str(key["zygote"])]
