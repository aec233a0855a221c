"""The suites: which files of which distributions, and where they are unpacked.

Tests are in source distributions only, and belong to one version: that which is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Suite:
    """Test files of a distribution.

    Args:
        name: of the distribution.
        tests: the files that start kernels.
        options: for pytest.
    """

    name: str
    tests: tuple[str, ...]
    options: tuple[str, ...] = ()

    def unpacked(self, directory: Path) -> Path:
        """Return where the source of the installed version is; fetch it if it is not there yet."""
        source = directory / f"{self.name}-{version(self.name)}"
        if not source.is_dir():
            archive = self._downloaded(directory)
            with tarfile.open(archive) as tar:
                tar.extractall(directory, filter="data")
        return source

    def _downloaded(self, directory: Path) -> Path:
        wanted = f"{self.name}=={version(self.name)}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--no-binary", self.name]
        subprocess.run([*command, "--dest", str(directory), wanted], check=True)
        return directory / f"{self.name}-{version(self.name)}.tar.gz"


SUITES = (
    Suite("nbclient", ("tests",)),
    Suite(
        "jupyter_client",
        (
            "tests/test_client.py",
            "tests/test_kernelapp.py",
            "tests/test_kernelmanager.py",
            "tests/test_manager.py",
            "tests/test_multikernelmanager.py",
            "tests/test_provisioning.py",
            "tests/test_restarter.py",
            "tests/test_runapp.py",
        ),
    ),
    Suite(
        "jupyter_server",
        ("tests/services/kernels", "tests/services/sessions"),
        # The suite makes errors of warnings, also of those about a tornado newer than itself.
        ("-W", "ignore::DeprecationWarning"),
    ),
)
