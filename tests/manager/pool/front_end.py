"""A front end in a process of its own: starts a kernel, says which, and ends it at end of input."""

from __future__ import annotations

import json
import os
import sys

from jupyter_client.manager import KernelManager


def main() -> None:
    request = json.loads(sys.stdin.readline())
    exec(request["setup"])
    manager = KernelManager(kernel_name=request["kernel"])
    manager.start_kernel(env=dict(os.environ), **{"stdout": sys.stderr, **request["options"]})
    answer = {"pid": manager.provisioner.pid, "connection_file": manager.connection_file}
    print(json.dumps(answer), flush=True)
    sys.stdin.read()
    manager.shutdown_kernel(now=True)


main()
