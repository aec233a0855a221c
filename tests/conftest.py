"""Every test runs against its own user directories, so nothing of the developer's leaks in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def hermetic_user_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point IPython and Jupyter at empty directories for the whole run, and start all kernels.

    Tests of the pool have one of their own.
    """
    home = tmp_path_factory.mktemp("home")
    names = {
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
    }
    saved = {name: os.environ.get(name) for name in names}
    for name, folder in names.items():
        (home / folder).mkdir()
        os.environ[name] = str(home / folder)
    saved["SAVEPOINT_POOL"] = os.environ.get("SAVEPOINT_POOL")
    os.environ["SAVEPOINT_POOL"] = "0"
    yield
    for name, value in saved.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
