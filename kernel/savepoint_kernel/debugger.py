"""The debugger: ipykernel's, started without the main thread.

Stock ipykernel starts debugpy by sending itself an execute_request and blocks the Control thread
until it is answered: while a cell runs, the kernel then takes no control message, interrupts
included. Here debugpy starts on a thread of its own.

This module is imported with the first debug request (`postponed`): debugpy is a tenth of the
time a kernel takes to start, and 7 MB, for something most kernels never do.

Threads: requests are served on the Control thread's loop, one at a time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from ipykernel.compiler import get_tmp_directory
from ipykernel.debugger import Debugger

_NOT_THE_USERS = "IPythonHistorySavingThread"


class SavepointDebugger(Debugger):  # type: ignore[misc]
    """Debug Adapter Protocol requests of a front end, answered by debugpy in this process."""

    debugpy_initialized: bool

    async def process_request(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        if (
            message["command"] == "initialize"
            and not self.is_started
            and not self.debugpy_initialized
        ):
            await asyncio.to_thread(self._listen)
            self.debugpy_initialized = True
        reply: dict[str, Any] = await super().process_request(message)
        return reply

    def _listen(self) -> None:
        import debugpy  # slow to import, and only here if a front end debugs

        # Cells are dumped here for debugpy to read; see `Debugger.dumpCell`.
        Path(get_tmp_directory()).mkdir(mode=0o700, parents=True, exist_ok=True)
        host, port = self.debugpy_client.get_host_port()
        debugpy.listen((host, int(port)))

    def _accept_stopped_thread(self, thread_name: str) -> bool:
        # The kernel's own threads are marked for debugpy, which does not list them.
        return thread_name != _NOT_THE_USERS
