"""Where there can be no pool, kernels start as they always did."""

from __future__ import annotations

import logging

import pytest

from .harness import Pool, environ

NOWHERE = {"SAVEPOINT_POOL_DIR": None, "JUPYTER_RUNTIME_DIR": None, "XDG_RUNTIME_DIR": None}


@pytest.mark.parametrize(
    "variables",
    [
        {"SAVEPOINT_POOL": "0"},
        {"SAVEPOINT_POOL_DIR": "/proc/none"},
        {"SAVEPOINT_POOL_DIR": "/tmp/" + 120 * "x"},
        {**NOWHERE, "HOME": None},
        {f"FILL{number}": 100_000 * "x" for number in range(3)},
    ],
    ids=["switched off", "no directory", "path too long", "no home", "large environment"],
)
def test_kernel_starts(
    own_pool: Pool,
    variables: dict[str, str | None],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    with own_pool.kernel(env=environ(**{**own_pool.env, **variables})) as kernel:
        assert kernel.eval("6 * 7") == "42"
    said = [record.getMessage() for record in caplog.records if "pool" in record.getMessage()]
    assert len(said) <= 1, said
    assert "Traceback" not in capfd.readouterr().err


def test_kernel_starts_where_there_are_no_pidfds(own_pool: Pool) -> None:
    with own_pool.front_end("del os.pidfd_open") as front_end, front_end.kernel() as kernel:
        assert kernel.eval("6 * 7") == "42"
    assert not own_pool.directory.exists()
