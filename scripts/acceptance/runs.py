"""Running a suite in a mode: whose kernel, whose provisioner, with a pool or without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from suites import Suite

SUITE_TIMEOUT = 3600
TEST_TIMEOUT = 120
"""Seconds."""

STANDBYS = 4
"""Some tests start that many kernels at once."""

HERE = Path(__file__).parent
JUPYTER = Path(sys.executable).with_name("jupyter")


@dataclass(frozen=True, slots=True)
class Mode:
    """What a suite is run with, instead of ipykernel and jupyter_client's provisioner.

    Args:
        name: as on the command line.
        provisioner: ours is the default one.
        kernelspec: ours is found as ``python3``.
        pool: kernels may come from a pool.
    """

    name: str
    provisioner: bool = False
    kernelspec: bool = False
    pool: bool = False


STOCK = Mode("stock")
OURS = (
    Mode("provisioner", provisioner=True, pool=True),
    Mode("kernelspec", kernelspec=True),
    Mode("pool", kernelspec=True, pool=True),
)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    Args:
        outcomes: ``passed``, ``failed`` or ``skipped``, by test.
        seconds: it took.
        kernels: how many came from the pool, and why others did not; empty without a pool.
    """

    outcomes: Mapping[str, str]
    seconds: float
    kernels: Mapping[str, int]

    def passed(self) -> set[str]:
        """Return the tests that passed."""
        return {test for test, outcome in self.outcomes.items() if outcome == "passed"}


class Workshop:
    """A directory for sources, logs, and what tests leave in a home."""

    def __init__(self, directory: Path) -> None:
        self.sources = directory / "sources"
        self.results = directory / "results"
        self.home = directory / "home"
        self.kernelspec = directory / "jupyter"
        for path in (self.sources, self.results, self.home):
            path.mkdir(parents=True, exist_ok=True)
        installed = Path(sys.prefix, "share", "jupyter", "kernels", "savepoint")
        shutil.copytree(installed, self.kernelspec / "kernels" / "python3", dirs_exist_ok=True)

    def log(self, suite: Suite, mode: Mode) -> Path:
        """Return where pytest's output is."""
        return self.results / f"{suite.name}-{mode.name}.log"

    def kept(self, suite: Suite, mode: Mode) -> Result:
        """Return the result of an earlier run; empty if there is none."""
        return Result(*_outcomes(self.log(suite, mode).with_suffix(".xml")), {})

    def run(self, suite: Suite, mode: Mode, tests: Sequence[str] = ()) -> Result:
        """Run a suite, or some of its tests."""
        source = suite.unpacked(self.sources)
        report = self.log(suite, mode).with_suffix(".again.xml" if tests else ".xml")
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", *(tests or suite.tests), *suite.options]
        command += ["-p", "one_home", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += ["-o", "junit_family=xunit1"]  # has the files' names
        command += ["-o", "asyncio_default_fixture_loop_scope=function"]  # else it warns: an error
        command += [
            f"--timeout={TEST_TIMEOUT}",
            "--timeout-method=signal",
        ]  # a thread's ends pytest
        kernels: Counter[str] = Counter()
        with (
            tempfile.TemporaryDirectory(prefix="sp") as directory,  # short: it names a socket
            self._pool(self._env(mode, directory), mode, kernels) as env,
            open(self.log(suite, mode), "a" if tests else "w") as log,
        ):
            subprocess.run(
                command, cwd=source, env=env, stdout=log, stderr=log, timeout=SUITE_TIMEOUT
            )
        return Result(*_outcomes(report), kernels)

    def _env(self, mode: Mode, directory: str) -> dict[str, str]:
        ours = ("JUPYTER", "SAVEPOINT", "IPYTHON", "XDG", "PYTEST")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env["HOME"] = str(self.home)
        env["PATH"] = f"{JUPYTER.parent}:{env['PATH']}"  # tests start jupyter's commands
        env["PYTHONPATH"] = str(HERE)  # for the plugin
        env["SAVEPOINT_POOL"] = str(int(mode.pool))
        env["SAVEPOINT_POOL_DIR"] = directory
        if mode.provisioner:
            env["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "savepoint-provisioner"
        if mode.kernelspec:
            env["JUPYTER_PATH"] = str(self.kernelspec)
        return env

    @contextmanager
    def _pool(
        self, env: dict[str, str], mode: Mode, kernels: Counter[str]
    ) -> Iterator[dict[str, str]]:
        """Keep a daemon while tests run; it makes standbys at once, the machine busy or not."""
        if not mode.pool:
            yield env
            return
        pool = [str(JUPYTER), "savepoint", "pool"]
        options = [f"--Pool.min_idle={STANDBYS}", "--Pool.refill_delay=0"]
        options += ["--Pool.refill_load=1000", "--Pool.max_age=0", "--Pool.idle_timeout=0"]
        subprocess.run([*pool, "start", *options], env=env, check=True, stdout=subprocess.DEVNULL)
        try:
            yield env
            command = [*pool, "status", "--json"]
            status = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
            for key in json.loads(status.stdout)["keys"]:
                kernels["from the pool"] += sum(key["hits"].values())
                kernels.update(key["misses"])
        finally:
            subprocess.run([*pool, "stop"], env=env, check=True, stdout=subprocess.DEVNULL)


def _outcomes(report: Path) -> tuple[dict[str, str], float]:
    """Read pytest's report: outcomes by test, and seconds. No report means that pytest crashed."""
    outcomes: dict[str, str] = {}
    if not report.exists():
        return outcomes, 0.0
    suites = ET.parse(report).getroot()
    for case in suites.iter("testcase"):
        file = case.get("file", "")
        module = file.removesuffix(".py").replace("/", ".")
        classes = case.get("classname", "").removeprefix(module).strip(".").split(".")
        test = "::".join(filter(None, (file, *classes, case.get("name"))))
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcomes[test] = "failed"
        else:
            outcomes.setdefault(test, "skipped" if "skipped" in kinds else "passed")
    return outcomes, sum(float(suite.get("time", 0)) for suite in suites.iter("testsuite"))
