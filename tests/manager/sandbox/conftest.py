"""Two sandboxed kernels that tests share, and what they must not reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.harness import Kernel
from tests.manager.pool.harness import environ

from .harness import sandboxed


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with a secret in it."""
    home = tmp_path_factory.mktemp("person")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").write_text("PRIVATE KEY")
    return home


@pytest.fixture(scope="session")
def notebooks(home: Path) -> Path:
    """Where the kernels are started: in that home, beside other things."""
    directory = home / "notebooks"
    directory.mkdir()
    (directory / "data.csv").write_text("1,2")
    return directory


@pytest.fixture(scope="session")
def kernel(hermetic_user_directories: None, home: Path, notebooks: Path) -> Iterator[Kernel]:
    env = environ(HOME=str(home), CLOUD_TOKEN="xyzzy", TZ="Asia/Tokyo", OMP_NUM_THREADS="3")
    with sandboxed(notebooks, env) as kernel:
        kernel.ok("import os, socket\nfrom pathlib import Path")
        yield kernel


@pytest.fixture(scope="session")
def other(hermetic_user_directories: None, home: Path, notebooks: Path) -> Iterator[Kernel]:
    """A session of the same user, in the same directory."""
    with sandboxed(notebooks, environ(HOME=str(home))) as kernel:
        kernel.ok("import os\nfrom pathlib import Path")
        yield kernel
