"""What a kernel and its children use."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own, as what pytest has imported is in memory too.
SHARING = """
import os, signal, sys
from savepoint_kernel import usage
shared = bytes(1) * 200_000_000
children = []
for _ in range(3):
    children.append(os.fork())
    if not children[-1]:
        signal.pause()
look = usage._kilobytes
def ends_meanwhile(pid, file, *args):
    if file == "smaps_rollup" and pid in children:
        children.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return look(pid, file, *args)
if "ends" in sys.argv:
    usage._kilobytes = ends_meanwhile
used = usage.measure()
print(used.memory, len(used.children))
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""


@pytest.mark.parametrize(("how", "left"), [("stays", 3), ("ends", 0)])
def test_what_processes_share_counts_once_also_if_one_ends_meanwhile(how: str, left: int) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SHARING, how]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    memory, children = map(int, printed.split())
    assert 200_000_000 < memory < 300_000_000
    assert children == left
