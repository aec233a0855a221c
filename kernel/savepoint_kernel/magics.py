"""Magics of this kernel."""

from __future__ import annotations

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class

from .exceptions import SourceNotAvailable
from .serialize.sources import REGISTRY


@magics_class
class SavepointMagics(Magics):  # type: ignore[misc]
    """``%source``."""

    @line_magic  # type: ignore[untyped-decorator]
    def source(self, line: str) -> None:
        """Show the source of a function or class, and which cell made it.

        Usage: ``%source NAME``, where NAME may be dotted.
        """
        name = line.strip()
        if not name:
            raise UsageError("%source needs the name of a function or class: %source NAME")
        info = self.shell._ofind(name)
        if not info.found:
            raise UsageError(f"%source: {name!r} is not defined")
        try:
            found = REGISTRY.source(info.obj)
        except SourceNotAvailable as error:
            raise UsageError(f"%source {name}: {error}") from None
        if found.cell is None:
            print(f"# {found.filename}, line {found.line}")
        else:
            cell_id = f", cell id {found.cell.cell_id}" if found.cell.cell_id else ""
            print(f"# In [{found.cell.execution_count}], line {found.line}{cell_id}")
        print(found.text, end="")
