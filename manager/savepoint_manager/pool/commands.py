"""``jupyter savepoint pool``: the pool, for the person it belongs to.

The pool needs none of these commands: front ends start it, and it ends by itself. `warm` has a
module of its own, as it needs jupyter_client, whose import takes longer than all the others do.

Threads: the main thread.
"""

from __future__ import annotations

import json
import os
import sys
from abc import abstractmethod
from pathlib import Path
from textwrap import dedent
from typing import Any

from jupyter_core.application import JupyterApp, base_aliases, base_flags
from traitlets import Bool, default
from traitlets.config import Config, Configurable
from traitlets.config.application import catch_config_error
from traitlets.config.loader import JSONFileConfigLoader, PyFileConfigLoader

from savepoint_kernel import launch, orders
from savepoint_kernel.orders import Message

from . import client, report
from .client import NoAnswer, NoPool
from .config import ALIASES, CONFIG_FILE, Pool
from .directory import LOG, private_directory

STATUS: Message = {"op": "status"}

STOP_TIMEOUT = 30.0
"""Seconds a daemon has to end when told to."""


class Command(JupyterApp):
    """What the subcommands have in common."""

    aliases: dict[Any, Any] = {}
    flags: dict[str, Any] = {"debug": base_flags["debug"]}
    most_arguments = 0

    @default("log_level")
    def _log_level_default(self) -> int:
        return 30  # warnings: what a command says is its output

    @default("config_file_name")
    def _config_file_name_default(self) -> str:
        return CONFIG_FILE

    @property
    def directory(self) -> str:
        """Where the pool is, or would be."""
        directory = launch.pool_directory(os.environ)
        if not directory:
            sys.exit(
                f"There is no directory for the pool: set {launch.DIRECTORY_VARIABLE} or HOME."
            )
        return directory

    @property
    def log_file(self) -> Path:
        """The daemon's log."""
        return Path(self.directory, LOG)

    @catch_config_error
    def start(self) -> None:
        """Check the command line, and run."""
        super().start()
        if len(self.extra_args) > self.most_arguments:
            unknown = " ".join(self.extra_args[self.most_arguments :])
            sys.exit(f"Unknown argument {unknown!r}; see {self.name.replace('-', ' ')} --help")
        if not hasattr(os, "pidfd_open"):
            sys.exit("There is no pool on this system, only on Linux. Kernels start by themselves.")
        try:
            self.run()
        except NoAnswer as error:
            sys.exit(f"{error}\nThe log is {self.log_file}. Kernels in use go on if you kill it.")
        except NoPool as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            sys.exit("Interrupted.")

    @abstractmethod
    def run(self) -> None:
        """Do what the command is for."""

    def require_pool(self) -> None:
        """Exit if there is to be no pool."""
        if os.environ.get(launch.SWITCH_VARIABLE) == "0":
            sys.exit(f"{launch.SWITCH_VARIABLE}=0 in the environment switches the pool off.")

    def status(self) -> Message:
        """Ask the daemon how it is.

        Raises:
            NoPool: there is none.
        """
        answer = client.request(self.directory, STATUS)
        if "pid" not in answer:
            raise NoPool(f"The pool says: {answer.get('miss', 'nothing, it has just ended')}")
        return answer

    def start_daemon(self, options: list[str]) -> Message:
        """Start a daemon.

        Args:
            options: of it.

        Returns:
            Its status.

        Raises:
            NoPool: it can't start.
        """
        try:
            private_directory(self.directory)
        except OSError as error:
            sys.exit(f"Can't use the directory of the pool: {error}")
        said = self.log_file.stat().st_size if self.log_file.exists() else 0
        with client.spawn_daemon(self.directory, options) as sock:
            sock.settimeout(launch.ANSWER_TIMEOUT)
            try:
                if answer := client.ask(sock, STATUS):
                    return answer
                return self.status()  # somebody else's was quicker
            except (NoPool, NoAnswer):
                raise NoPool(f"The daemon could not start: {self._last_words(said)}") from None

    def _last_words(self, said: int) -> str:
        """Return the last line of the log after what was there before."""
        if not self.log_file.exists():
            return "it has left no log"
        text = self.log_file.read_bytes()[said:].decode("utf-8", "replace").strip()
        return f"{text.splitlines()[-1] if text else 'it did not say why'} ({self.log_file})"


class StartApp(Command):
    """Starts the daemon."""

    name = "jupyter-savepoint-pool-start"
    description = """Start the pool's daemon, and wait until it answers.

    There is no need to: the first kernel of the day starts it. Options given here are for this
    daemon; `jupyter savepoint pool config` says where those for good belong.
    """
    examples = dedent(
        """
        jupyter savepoint pool start
        jupyter savepoint pool start --min-idle 4 --preload numpy,pandas,matplotlib
        """
    )
    aliases = {"config": base_aliases["config"], **ALIASES}
    classes: list[type[Configurable]] = [Pool]

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Remember the options: they are the daemon's."""
        self._options = sys.argv[1:] if argv is None else list(argv)
        super().initialize(argv)

    def run(self) -> None:
        """Start one if there is none."""
        self.require_pool()
        Pool(parent=self)  # a bad option is told here, not in the daemon's log
        try:
            status = self.status()
        except NoPool:
            status = self.start_daemon(self._options)
            print(f"Started process {status['pid']}. The pool is in {self.directory}")
            print("To have standbys before the first kernel: jupyter savepoint pool warm")
            return
        print(f"Runs already, as process {status['pid']}. The pool is in {self.directory}")
        if self.cli_config.get("Pool"):
            print("It goes on with the options it has; for others, stop it and start it again.")


class StopApp(Command):
    """Ends the daemon."""

    name = "jupyter-savepoint-pool-stop"
    description = """Stop the pool's daemon, and wait for its end.

    Standbys end with it. Kernels in use go on, and so do their front ends. The next kernel starts
    the daemon again, unless its front end has SAVEPOINT_POOL=0 in its environment.
    """

    def run(self) -> None:
        """Stop it if there is one."""
        try:
            sock = client.connect(self.directory)
        except NoPool as error:
            print(f"Nothing to stop. {error}")
            return
        with sock:
            answer = client.ask(sock, {"op": "stop"})
            if "miss" in answer:
                raise NoPool(f"The pool says: {answer['miss']}")
            _await_end(orders.peer_of(sock)[0])
        print(f"Stopped. Kernels in use, which go on: {answer.get('kernels', 0)}")


def _await_end(pid: int) -> None:
    try:
        daemon = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not client.readable(daemon, STOP_TIMEOUT):
            raise NoAnswer(f"The pool, process {pid}, has not ended in {STOP_TIMEOUT:g} s.")
    finally:
        os.close(daemon)


class StatusApp(Command):
    """Says what the daemon does."""

    name = "jupyter-savepoint-pool-status"
    description = """Show the pool's daemon and what it keeps ready.

    A key is what a kernel can't be told after it was made: interpreter, options, some variables of
    the environment. The exit status is 1 if there is no daemon.
    """
    flags = {
        **Command.flags,
        "json": ({"StatusApp": {"json": True}}, "For programs: one JSON object."),
    }
    json = Bool(False, help="Print one JSON object.").tag(config=True)

    def run(self) -> None:
        """Ask, and print."""
        try:
            status = self.status()
        except NoPool as error:
            if self.json:
                self._print_json(running=False, reason=str(error))
                sys.exit(1)
            sys.exit(f"{error}\nThe next kernel starts by itself, and the daemon with it.")
        if self.json:
            self._print_json(running=True, **status)
        else:
            print(f"The pool in {self.directory}: {report.render_status(status)}")

    def _print_json(self, **status: object) -> None:
        print(
            json.dumps({"directory": self.directory, "log": str(self.log_file), **status}, indent=1)
        )


class ConfigApp(Command):
    """Says what the options are."""

    name = "jupyter-savepoint-pool-config"
    description = """Show the pool's options, and which file each value comes from.

    What they mean: `jupyter savepoint pool config --help-all`.
    """
    aliases = {"config": base_aliases["config"]}
    flags = base_flags
    classes = [Pool]

    def run(self) -> None:
        """Print the table, and how to change it."""
        pool = Pool(parent=self)
        sources = self._sources()
        options = Pool.class_traits(config=True)
        rows = [(name, getattr(pool, name), sources.get(name, "default")) for name in options]
        print(f"The pool's directory: {self.directory}\n\n{report.render_options(rows)}\n")
        file = Path(self.config_dir, f"{self.config_file_name}.py")
        print(f"To change them, write to {file}, for example:\n")
        print("    c.Pool.min_idle = 4")
        print('    c.Pool.preload = ["numpy", "pandas", "matplotlib"]\n')
        print("and have the daemon started anew: jupyter savepoint pool stop")
        self._compare({name: value for name, value, _ in rows})

    def _sources(self) -> dict[str, str]:
        """Find the file that has the last word on each option."""
        sources = {}
        for path in self.loaded_config_files:
            loader = JSONFileConfigLoader if path.endswith(".json") else PyFileConfigLoader
            config: Config = loader(os.path.basename(path), os.path.dirname(path)).load_config()
            sources.update(dict.fromkeys(config.get("Pool", {}), path))
        sources.update(dict.fromkeys(self.cli_config.get("Pool", {}), "command line"))
        return sources

    def _compare(self, options: dict[str, Any]) -> None:
        try:
            running = self.status()["options"]
        except NoPool:
            return
        others = {name: value for name, value in running.items() if value != options.get(name)}
        if others:
            print("\nThe daemon that runs was started with other values:\n")
            print(report.render_options([(name, value, "") for name, value in others.items()]))


class PoolApp(JupyterApp):
    """Does nothing by itself but name its subcommands."""

    name = "jupyter-savepoint-pool"
    description = """Look after the pool: kernels that are ready before they are asked for."""
    aliases: dict[Any, Any] = {}
    flags: dict[str, Any] = {}
    subcommand_description = "Each has a help of its own: jupyter savepoint pool warm --help"
    subcommands: dict[str, Any] = {
        "status": (StatusApp, "Show what is kept ready, for whom, and how quickly it was given."),
        "warm": (
            "savepoint_manager.pool.warm.WarmApp",
            "Keep standbys for a kernelspec, with modules imported beforehand.",
        ),
        "config": (ConfigApp, "Show the options and where they are set."),
        "start": (StartApp, "Start the daemon."),
        "stop": (StopApp, "Stop the daemon; kernels that are in use go on."),
    }

    def start(self) -> None:
        """Hand over to the subcommand; without one, show the help and exit with 2."""
        super().start()
        if self.extra_args:
            self.exit(
                f"Unknown subcommand {self.extra_args[0]!r}; see jupyter savepoint pool --help"
            )
        self.print_help()
        self.exit(2)
