"""``jupyter savepoint``: the command and its subcommands."""

from __future__ import annotations

from typing import Any

from jupyter_core.application import JupyterApp

_BATCH = {"nbclient", "nbformat"}
"""Packages of the extra ``batch``."""


class SavepointApp(JupyterApp):
    """Does nothing by itself but name its subcommands."""

    name = "jupyter-savepoint"
    description = """Run notebooks on the Savepoint kernel, and look after its pool."""
    subcommands: dict[str, Any] = {
        "run": (
            "savepoint_manager.run.RunApp",
            "Execute a notebook and show its cells and outputs in the terminal.",
        ),
        "pool": (
            "savepoint_manager.pool.commands.PoolApp",
            "Look after the kernels that are ready before they are asked for.",
        ),
    }

    def initialize_subcommand(self, subc: str, argv: list[str] | None = None) -> None:
        """Load a subcommand; one whose packages are not installed says how to install them."""
        try:
            super().initialize_subcommand(subc, argv)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _BATCH:
                raise
            self.exit(
                f"jupyter savepoint {subc} needs {package}, which is not installed: "
                "pip install 'jupyter-savepoint[batch]'"
            )

    def start(self) -> None:
        """Hand over to the subcommand; without one, show the help and exit with 2."""
        super().start()
        self.print_help()
        self.exit(2)


def main() -> None:
    """Run the command; the entry point of the ``jupyter-savepoint`` script."""
    SavepointApp.launch_instance()


if __name__ == "__main__":
    main()
