"""Whether the machine has time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from savepoint_kernel.machine import is_busy

from .harness import PATIENCE


def test_more_threads_than_cpus_are_too_many():
    spin = "print(flush=True)\nwhile True: pass"
    with ExitStack() as stack:
        for _ in range((os.cpu_count() or 1) + 1):
            command = [sys.executable, "-c", spin]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        deadline = time.monotonic() + PATIENCE
        while not is_busy():  # one look may find some of them waiting for something else
            assert time.monotonic() < deadline
