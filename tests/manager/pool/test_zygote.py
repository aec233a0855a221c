"""Forks that share memory and nothing else."""

from __future__ import annotations

from pathlib import Path

from .harness import Pool, open_pool


def test_preload_that_starts_threads_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    with open_pool("c.Pool.preload = ['threaded']\n") as pool:
        env = {**pool.env, "PYTHONPATH": str(tmp_path)}
        with pool.kernel(env=env):
            pass
        pool.await_status(lambda status: status["keys"][0]["problem"], "it is refused")
        problem = pool.key["problem"]
        assert "threaded starts threads" in problem
        with pool.kernel(env=env) as kernel:
            assert kernel.eval("6 * 7") == "42"
        assert pool.key["misses"][problem] == 1


def test_configuration_that_starts_threads_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "profile_default"
    profile.mkdir()
    (profile / "ipython_config.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "c.InteractiveShellApp.exec_lines = ['answer = 6 * 7']\n"
    )
    with open_pool() as pool:
        env = {**pool.env, "IPYTHONDIR": str(tmp_path)}
        with pool.kernel(env=env):
            pass
        pool.await_status(lambda status: status["keys"][0]["problem"], "it is refused")
        assert "reading the configuration starts threads" in pool.key["problem"]
        with pool.kernel(env=env) as kernel:
            assert kernel.eval("answer") == "42"


RANDOM = """
import random, secrets, uuid, multiprocessing, numpy
seen = [
    random.random(), numpy.random.random(), numpy.random.default_rng().random(),
    str(uuid.uuid4()), str(uuid.uuid1()), secrets.token_hex(),
    bytes(multiprocessing.current_process().authkey).hex(),
    get_ipython().kernel.session.session,
]
"""


def test_kernels_of_one_zygote_share_no_randomness(plotting: Pool) -> None:
    seen: list[list[str]] = []
    for _ in range(2):
        with plotting.warm_kernel() as kernel:
            kernel.ok(RANDOM)
            seen.append(kernel.eval("'|'.join(map(str, seen))").strip("'").split("|"))
    one, other = seen
    assert len(one) == 8
    assert not set(one) & set(other)


THREADS = """
import numpy, threadpoolctl
seen = [(pool['internal_api'], pool['num_threads']) for pool in threadpoolctl.threadpool_info()]
product = float((numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum())
"""


def test_blas_has_the_threads_it_would_have(plotting: Pool) -> None:
    def seen(env: dict[str, str]) -> str:
        with plotting.kernel(env=env) as kernel:
            kernel.ok(THREADS)
            assert kernel.eval("product") == "27000000.0"
            return kernel.eval("seen")

    plotting.have_standbys()
    before = plotting.hits()
    warm = seen(plotting.env)
    assert plotting.hits() == before + 1
    assert warm == seen({**plotting.env, "SAVEPOINT_POOL": "0"})


def test_exit_handler_of_a_preloaded_module_runs_once_in_each_kernel(tmp_path: Path) -> None:
    log = tmp_path / "log" / "left"
    log.parent.mkdir()
    (tmp_path / "leaving.py").write_text(
        "import atexit, os\n"
        f"atexit.register(lambda: open({str(log)!r}, 'a').write(f'{{os.getpid()}}\\n'))\n"
    )
    with open_pool("c.Pool.preload = ['leaving']\n") as pool:
        env = {**pool.env, "PYTHONPATH": str(tmp_path)}
        pids = []
        for _ in range(2):
            with pool.warm_kernel(env=env) as kernel:
                pids.append(kernel.pid)
                kernel.manager.shutdown_kernel()
        left = log.read_text().split()
        assert [left.count(str(pid)) for pid in pids] == [1, 1]


LAST_WORDS = """
import atexit, concurrent.futures, threading
def write(name):
    open(name, "w").write("written")
class Node: pass
node, other = Node(), Node()
node.other, other.node, node.file = other, node, open("cycle", "w")
_ = node.file.write("written")
named = open("named", "w")
_ = named.write("written")
_ = atexit.register(write, "handler")
threading.Thread(target=lambda: (threading.main_thread().join(), write("thread"))).start()
pool, ending = concurrent.futures.ThreadPoolExecutor(1), threading.Event()
_ = pool.submit(ending.wait), pool.submit(write, "queued")
threading._register_atexit(ending.set)
"""


def test_a_forked_kernel_ends_as_any_python_does(plotting: Pool, tmp_path: Path) -> None:
    with plotting.warm_kernel(cwd=str(tmp_path)) as kernel:
        kernel.ok(LAST_WORDS)
        kernel.manager.shutdown_kernel()
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    names = ["cycle", "handler", "named", "queued", "thread"]
    assert left == dict.fromkeys(names, "written")
