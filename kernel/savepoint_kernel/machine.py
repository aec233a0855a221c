"""Whether the machine has time for what could also be done later.

Threads: any.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_LOAD = Path("/proc/loadavg")


def is_busy() -> bool:
    """Tell whether more threads want a CPU than there are CPUs, this one among them.

    Linux says how many want one now (the fourth field of proc_loadavg(5)). Others say how many did
    in the last minute; where nobody says it, the machine has time.
    """
    wanting = 0.0
    with suppress(OSError, AttributeError):
        wanting = os.getloadavg()[0]
        wanting = float(_LOAD.read_text().split()[3].partition("/")[0])
    return wanting > (os.cpu_count() or 1)
