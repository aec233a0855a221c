"""What can't be changed in a running process is in effect from its start."""

from __future__ import annotations

from pathlib import Path

import pytest

from savepoint_kernel import orders
from savepoint_kernel.orders import Order
from savepoint_manager.pool.client import connect
from savepoint_manager.pool.keys import key_of

from .harness import Pool

BEFORE_START = {
    "PYTHONHASHSEED": "1",
    "PYTHONOPTIMIZE": "1",
    "PYTHONWARNINGS": "ignore::ResourceWarning",
    "PYTHONPATH": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": "/nonexistent",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "NUMEXPR_MAX_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": "/tmp",
    "IPYTHONDIR": "/nonexistent",
    "HOME": "/nonexistent",
    "USER": "nobody",
}

AFTER_START = ["PATH", "TZ", "TMPDIR", "JPY_SESSION_NAME", "JPY_PARENT_PID", "COLUMNS", "PWD", "X"]


def order(**env: str) -> Order:
    return Order("python", ["-Xfrozen_modules=off"], [], "/c.json", "/", env)


@pytest.mark.parametrize("name", BEFORE_START)
def test_variable_read_at_the_start_is_in_the_key(name: str) -> None:
    assert key_of(order(**{name: BEFORE_START[name]})) != key_of(order())


@pytest.mark.parametrize("name", AFTER_START)
def test_variable_read_when_it_is_used_is_not(name: str) -> None:
    assert key_of(order(**{name: "1"})) == key_of(order())


SEEN = """
import sys, threadpoolctl, numpy, matplotlib, locale
seen = (
    hash('a'),
    'ignore::ResourceWarning' in sys.warnoptions,
    sys.path.count('/nonexistent'),
    locale.setlocale(locale.LC_CTYPE),
    {pool['num_threads'] for pool in threadpoolctl.threadpool_info()},
    matplotlib.get_backend().lower(),
)
"""


def test_variables_of_the_key_are_in_effect(plotting: Pool) -> None:
    names = (
        "PYTHONHASHSEED PYTHONWARNINGS PYTHONPATH LC_ALL OMP_NUM_THREADS "
        "OPENBLAS_NUM_THREADS MPLBACKEND"
    ).split()
    env = {**plotting.env, **{name: BEFORE_START[name] for name in names}}
    with plotting.kernel(env={**env, "SAVEPOINT_POOL": "0"}) as kernel:
        cold = kernel.ok(SEEN) and kernel.eval("seen")
    with plotting.warm_kernel(env=env) as kernel:
        assert (kernel.ok(SEEN) and kernel.eval("seen")) == cold
        assert kernel.eval("seen[1:]").replace("\n", "") == repr((True, 1, "C.UTF-8", {1}, "agg"))


def test_relative_search_path_is_the_order_s(pool: Pool, tmp_path: Path) -> None:
    env = {**pool.env, "PYTHONPATH": "here"}
    for name in ("one", "other"):
        folder = tmp_path / name
        (folder / "here").mkdir(parents=True)
        (folder / "here" / "lies.py").write_text(f"where = {name!r}\n")
        pool.have_standbys(env=env, cwd=str(folder))
        before = pool.hits()
        with pool.kernel(env=env, cwd=str(folder)) as kernel:
            assert pool.hits() == before + 1
            kernel.ok("import lies")
            assert kernel.eval("lies.where") == repr(name)


def test_misses_are_counted_by_reason(own_pool: Pool, tmp_path: Path) -> None:
    own_pool.have_standbys()
    folder = str(tmp_path / "none")
    with (tmp_path / "out").open("w") as out, connect(str(own_pool.directory)) as sock:
        orders.send(sock, {"op": "launch", **own_pool.order(cwd=folder)}, [out.fileno()] * 3)
        answer, _ = orders.receive(sock)
    assert folder in answer["miss"]
    assert own_pool.key["misses"] == {answer["miss"]: 1}
