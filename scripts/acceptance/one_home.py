"""A pytest plugin: one home for all tests of a suite.

pytest-jupyter gives each test a home of its own. The pool keeps standbys per home (it has the
user's configuration), so each test would find an empty pool, and only restarts would be tested.
"""

from __future__ import annotations

import os

import pytest

HOME = os.environ["HOME"]


@pytest.fixture(autouse=True)
def one_home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "jp_environ" in request.fixturenames:
        request.getfixturevalue("jp_environ")
        monkeypatch.setenv("HOME", HOME)
