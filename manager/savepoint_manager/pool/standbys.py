"""The standbys of one key, and the zygote that makes them.

Those that are left when the environment changes (`fingerprint`) are ended, with their zygote, and
made anew.

Threads: the daemon's event loop.
"""

from __future__ import annotations

import asyncio
from typing import IO, Any

from savepoint_kernel.orders import Order, OrderRefused

from .config import Pool
from .fingerprint import Fingerprint
from .keeper import Keeper, NoStandby, StandbyLost, StartedAnew
from .keys import Key
from .reaper import Reaper
from .zygotes import Standby, Zygote, start_zygote


class Standbys(Keeper[Standby]):
    """Standbys of one key.

    Args:
        key: theirs.
        order: one of this key; the zygote starts in its environment.
        config: of the pool.
        reaper: waits for the processes.
        forking: limits how many are made at once, over all keys.
        log_file: stdout and stderr of processes nobody has taken.
    """

    kind = "standbys"

    def __init__(
        self,
        key: Key,
        order: Order,
        config: Pool,
        reaper: Reaper,
        forking: asyncio.Semaphore,
        log_file: IO[Any],
    ) -> None:
        super().__init__(key, config)
        self.preload = list(config.preload)
        self._order = order
        self._reaper = reaper
        self._forking = forking
        self._log_file = log_file
        self._zygote: Zygote | None = None
        self._fingerprint: Fingerprint | None = None
        """Of what standbys were made from. They outlive a zygote that has ended by itself."""
        self._watched: dict[Standby, asyncio.Task[None]] = {}

    @property
    def environment(self) -> str | None:
        """A short name for what the zygote has imported its modules from."""
        return self._fingerprint.name if self._fingerprint else None

    # -- handing out

    def take(self) -> Standby:
        """Take a standby that fits.

        Raises:
            NoStandby: none is there.
        """
        self.ask()
        if not self.idle:
            raise NoStandby("none ready" if self._zygote else "starting")
        self._losses = 0
        return self._release(self.idle[0])

    async def fork(self) -> Standby:
        """Have a standby made for somebody who waits.

        Raises:
            NoStandby: there is no zygote, or it can't.
        """
        if self._zygote is None:
            raise NoStandby(self.problem or "starting")
        try:
            async with self._forking:
                return await self._make()
        except (OSError, OrderRefused, asyncio.TimeoutError) as error:
            raise NoStandby(f"the zygote does not answer: {error!r}") from None

    def _release(self, standby: Standby) -> Standby:
        self.idle.remove(standby)
        self._watched.pop(standby).cancel()
        return standby

    # -- what is kept

    async def _fill(self) -> None:
        if self._zygote is None and self.problem is None:
            await self._quiet()
            await self._start_zygote()
        while self._zygote is not None and len(self.idle) < self.min_idle:
            await self._quiet()
            async with self._forking:
                self._add(await self._make())

    def _check_fresh(self) -> None:
        changed = self._fingerprint and self._fingerprint.changed()
        if changed:
            self._log.info("%s: %s has changed, starting anew", self.key.name, changed)
            self._start_anew()
            self.problem = None

    def _import_beforehand(self, modules: list[str]) -> None:
        self.preload = modules
        self._start_anew()

    def _start_anew(self) -> None:
        self.counts.recycled += len(self.idle)
        self._drop_all()

    def _end(self, standby: Standby) -> None:
        self._release(standby).channel.close()
        self._reaper.discard(standby.pid)

    def _drop_all(self) -> None:
        super()._drop_all()
        if self._zygote is not None:
            self._zygote.channel.close()
        self._set_zygote(None)
        self._fingerprint = None

    def _set_zygote(self, zygote: Zygote | None) -> None:
        self._zygote = zygote
        self.zygote = zygote.pid if zygote else None

    # -- making

    async def _start_zygote(self) -> None:
        preload = self.preload
        try:
            zygote = await start_zygote(
                self.key, self._order, preload, self._reaper, self._log_file
            )
        except NoStandby:
            if preload == self.preload:
                raise
            raise StartedAnew("starting") from None
        if preload != self.preload:
            zygote.channel.close()
            raise StartedAnew("starting")
        self._check_fresh()  # there may be standbys of another zygote
        self._set_zygote(zygote)
        self._fingerprint = zygote.fingerprint
        zygote.ended.add_done_callback(lambda ended: self._on_zygote_end(zygote, ended.result()))

    def _on_zygote_end(self, zygote: Zygote, code: int) -> None:
        if self._zygote is zygote:
            zygote.channel.close()
            self._set_zygote(None)  # its standbys need it no more
            self._lose(f"the zygote ended with status {code}")

    async def _make(self) -> Standby:
        zygote = self._zygote
        if zygote is None:
            raise StartedAnew("starting")
        self.warming += 1
        try:
            standby = await zygote.fork()
        except StandbyLost:
            if self._zygote is zygote:
                raise
            raise StartedAnew("starting") from None
        finally:
            self.warming -= 1
        if self._zygote is not zygote:
            standby.channel.close()
            raise StartedAnew("starting")
        self.counts.created += 1
        return standby

    def _add(self, standby: Standby) -> None:
        self.idle.append(standby)
        self._watched[standby] = asyncio.create_task(self._watch(standby))

    async def _watch(self, standby: Standby) -> None:
        """Notice the end of a standby that nobody has taken."""
        await asyncio.shield(self._reaper.status(standby.pid))
        self.counts.died += 1
        self._end(standby)
        self._lose(f"standby {standby.pid} ended")
