"""Adoptions: orders for kernels of other kernelspecs than Savepoint's, and which kernels fit them.

Such a kernel is handed out as it was started. Nothing but its directory can be changed then, by
code in its own language; so the whole environment is in its key.

Threads: none of its own.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass

from savepoint_kernel.orders import Message, Order, OrderRefused, order_of

from .keys import Key

CONNECTION_FILE = "{connection_file}"
"""Stands in a command for the path of the connection file."""

DIRECTORY = "{cwd}"
"""Stands in code for the directory, in double quotes."""

SESSION_VARIABLES = frozenset(
    """
    _ COLUMNS INVOCATION_ID JOURNAL_STREAM JPY_PARENT_PID JPY_SESSION_NAME LINES OLDPWD PWD SHLVL
    SSH_CLIENT SSH_CONNECTION SSH_TTY SYSTEMD_EXEC_PID TERM_SESSION_ID TMUX TMUX_PANE WINDOWID
    XDG_SESSION_ID
    """.split()
)
"""Variables that tell one session, terminal or service from another. They are not in the key, and
kernels that are started beforehand don't have them."""

_SAFE = frozenset(" /._-+,:=~()'")
"""Characters beside letters and digits that mean nothing between double quotes, in no language. Not
in them are @ (Perl), [ (Tcl, where it runs code), { (Ruby's #{}, PHP), & and typographic quotes."""

_SALT = secrets.token_bytes(16)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A kernel of any kernelspec that somebody wants.

    Attributes:
        order: executable and options are the command, with `CONNECTION_FILE` in it.
        code: run in the kernel when it is handed out, unless it is empty. Without `DIRECTORY` in
            it, the kernel must have been started in the directory.
        kernelspec: path of the kernel.json.
        unfit: why no kernel of the pool can be it; empty if one can.
    """

    order: Order
    code: str
    kernelspec: str
    unfit: str = ""

    def as_message(self) -> Message:
        """Return what `adoption_of` reads."""
        described = {name: getattr(self, name) for name in ("code", "kernelspec", "unfit")}
        return {**self.order.as_message(), "adopt": described}

    @property
    def detached(self) -> bool:
        """Whether the kernel outlives the process that asked for it."""
        return self.order.detached

    @property
    def command(self) -> list[str]:
        """The command, with `CONNECTION_FILE` in it."""
        return [self.order.executable, *self.order.options]

    @property
    def env(self) -> dict[str, str]:
        """The environment of a kernel that is started beforehand."""
        return {
            name: value for name, value in self.order.env.items() if name not in SESSION_VARIABLES
        }

    @property
    def cwd(self) -> str:
        """The directory of a kernel that is started beforehand."""
        return "/" if DIRECTORY in self.code else self.order.cwd

    @property
    def key(self) -> Key:
        """What kernels that fit have in common.

        It goes into what `status` says, and an environment may hold secrets: in the place of
        values there are digests, which are of use in this process only.
        """
        variables = tuple((name, _digest(value)) for name, value in sorted(self.env.items()))
        command = self.order.executable, tuple(self.order.options)
        return Key(*command, arguments=(), variables=variables, cwd=self.cwd)

    def handover_code(self) -> str:
        """Return the code with the directory in place.

        Raises:
            OrderRefused: the directory is not itself between double quotes.
        """
        cwd = self.order.cwd
        if DIRECTORY in self.code and not all(c.isalnum() or c in _SAFE for c in cwd):
            raise OrderRefused("its directory has a character that not every language can quote")
        return self.code.replace(DIRECTORY, f'"{cwd}"')


def adoption_of(message: Message) -> Adoption:
    """Read an adoption.

    Raises:
        OrderRefused: it is none.
    """
    described = message.get("adopt")
    names = ("code", "kernelspec", "unfit")
    if not isinstance(described, dict) or not all(
        isinstance(described.get(name), str) for name in names
    ):
        raise OrderRefused(f"an adoption needs {', '.join(names)}")
    return Adoption(order_of(message), **{name: described[name] for name in names})


def _digest(value: str) -> str:
    data = os.fsencode(value)
    return hashlib.blake2b(data, key=_SALT, digest_size=12).hexdigest()
