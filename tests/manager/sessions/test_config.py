from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import savepoint_manager
from savepoint_manager import PoolConfig


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_idle": -1}, "min_idle"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"min_idle": 3, "max_sessions": 2}, "3 <= 2 <= 2"),
        ({"max_idle": 4, "max_sessions": 2}, "1 <= 4 <= 2"),
        ({"acquire_timeout": -1.0}, "acquire_timeout"),
        ({"health_interval": 0}, "health_interval"),
        ({"refill_delay": float("nan")}, "refill_delay"),
        ({"preload": ["os; x"]}, "os; x"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PoolConfig(**options)


@pytest.mark.parametrize("name", ["preload", "lib_paths"])
def test_a_string_is_no_list(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        PoolConfig(**{name: "numpy"})


def test_importing_the_package_loads_no_client() -> None:
    code = "import sys, savepoint_manager; print({'zmq', 'jupyter_client'} & {*sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert loaded == "set()\n"


def test_names_that_are_not_there_are_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        savepoint_manager.Nothing  # noqa: B018
