"""``jupyter savepoint pool warm``: standbys before the first kernel, and with modules.

Threads: the main thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from textwrap import dedent

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import KernelManager
from traitlets import Bool, Int

from savepoint_kernel.kernelspec import KERNEL_NAME
from savepoint_kernel.orders import Message, Order

from . import client, report
from .adoption import Adoption
from .client import NoPool
from .commands import Command
from .config import Modules
from .provisioner import SavepointProvisioner


class WarmApp(Command):
    """Has standbys made for a kernelspec."""

    name = "jupyter-savepoint-pool-warm"
    description = f"""Keep standbys for a kernelspec, and wait until they are ready.

    Without a name, for {KERNEL_NAME}. It holds until the daemon ends; `jupyter savepoint pool
    config` says where options for good belong. Run it in the environment the front end runs in:
    to a front end with another PYTHONPATH or LANG, say, they are of no use.
    """
    examples = dedent(
        """
        jupyter savepoint pool warm savepoint
        jupyter savepoint pool warm savepoint -n 4 --preload numpy,pandas,matplotlib
        """
    )
    aliases = {("n", "min-idle"): "WarmApp.min_idle", "preload": "WarmApp.preload"}
    flags = {
        **Command.flags,
        "no-wait": ({"WarmApp": {"wait": False}}, "Do not wait until they are ready."),
    }
    most_arguments = 1
    min_idle = Int(
        None,
        allow_none=True,
        min=0,
        help="How many to keep; as many as c.Pool.min_idle if not given.",
    ).tag(config=True)
    preload = Modules(
        help="""Modules to import beforehand, with commas between them. Those of c.Pool.preload if
        not given.""",
    ).tag(config=True)
    wait = Bool(True, help="Wait until they are ready.").tag(config=True)

    def run(self) -> None:
        """Ask for them."""
        self.require_pool()
        name = self.extra_args[0] if self.extra_args else KERNEL_NAME
        message: Message = {"op": "warm", "wait": self.wait, **self._order_of(name).as_message()}
        if self.min_idle is not None:
            message["min_idle"] = self.min_idle
        if "preload" in self.config.get("WarmApp", {}):
            message["preload"] = self.preload
        began = time.monotonic()
        with self._connect() as sock:
            key = self._checked(client.ask(sock, message), name)["key"]
            if not self.wait:
                print(
                    f"Standbys for {name} (key {key}) are being made: see jupyter savepoint pool "
                    f"status, and {self.log_file} if they don't come."
                )
                return
            sock.settimeout(None)  # imports may take long; the daemon limits that
            answer = self._checked(client.answer_on(sock), name)
        took = time.monotonic() - began
        print(
            f"{report.count(answer['ready'], 'standby')} for {name} (key {key}) after {took:.1f} s"
        )

    def _connect(self) -> socket.socket:
        try:
            return client.connect(self.directory)
        except NoPool:
            self.start_daemon([])
            return client.connect(self.directory)

    def _checked(self, answer: Message, name: str) -> Message:
        problem = answer.get("problem") or answer.get("miss")
        if problem or not answer:
            sys.exit(
                f"No standbys for {name}: {problem or 'the pool was stopped'}\n"
                f"All is as it was before. The log is {self.log_file}"
            )
        return answer

    def _order_of(self, name: str) -> Order | Adoption:
        """Spell a kernelspec as front ends do when they ask the pool."""
        manager = KernelManager(kernel_name=name, connection_file=os.devnull, parent=self)
        try:
            spec = manager.kernel_spec
        except NoSuchKernel as error:
            sys.exit(f"{error}. `jupyter kernelspec list` shows the kernels there are.")
        provisioner = SavepointProvisioner(kernel_id="", kernel_spec=spec, parent=manager)
        order = asyncio.run(provisioner.order())
        if order is None:
            sys.exit(
                f"The kernelspec {name!r} starts no Savepoint kernel, or one in a sandbox, and "
                "c.Pool.adopt does not name it. `python -m savepoint_kernel install` makes a "
                "kernelspec that does; `jupyter savepoint pool config` says where c.Pool.adopt "
                "belongs."
            )
        return order
