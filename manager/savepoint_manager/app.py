"""``jupyter savepoint``: the command and its subcommands."""

from __future__ import annotations

from typing import Any

from jupyter_core.application import JupyterApp

from .run import RunApp


class SavepointApp(JupyterApp):
    """Does nothing by itself but name its subcommands."""

    name = "jupyter-savepoint"
    description = """Run notebooks on the Savepoint kernel."""
    subcommands: dict[str, Any] = {
        "run": (RunApp, "Execute a notebook and show its cells and outputs in the terminal."),
    }

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
