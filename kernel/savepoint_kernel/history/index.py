"""The index: where each chunk lies, and the catalog, so that opening a store reads no pack.

It holds nothing that the packs do not, so it may be lost: a damaged index is set aside and made
anew. Hence ``synchronous=NORMAL``: after a power cut the last transactions may be missing, and what
lies behind the point up to which the index knows a pack is read again.

Nothing in it is believed unseen. The catalog has a checksum, and at the place of a chunk there must
be a record of that chunk.

Threads: one connection for the writer, one for lookups by any thread; the store's SQLite file is
never opened by a second process (`lock`). Without a file both are one connection in memory.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .catalog import Catalog, Entry
from .packs import Place

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    address BLOB PRIMARY KEY, pack INTEGER, "offset" INTEGER, length INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commits (
    id BLOB PRIMARY KEY, seq INTEGER, parent BLOB, time INTEGER,
    pack INTEGER, "offset" INTEGER, length INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refs (name TEXT PRIMARY KEY, id BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS packs (pack INTEGER PRIMARY KEY, indexed INTEGER);
CREATE TABLE IF NOT EXISTS state (last_seq INTEGER, checksum BLOB);
"""


class IndexDamaged(Exception):
    """The index can't be what was written; make it anew from the packs."""


class Index:
    """The SQLite file of one store.

    Args:
        path: the file; None for one in memory.

    Raises:
        IndexDamaged: SQLite can't use the file.
        OSError: it can't be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._writing = threading.RLock()
        self._looking = self._writing if path is None else threading.RLock()
        if path is not None:
            # sqlite3 would say "unable to open database file", and make it readable by others.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._writer = self._connect()
        try:
            with _damage():
                self._writer.execute("PRAGMA journal_mode=WAL")
                self._writer.execute("PRAGMA synchronous=NORMAL")
                self._writer.executescript(_SCHEMA)
                self._reader = self._writer if path is None else self._connect()
        except BaseException:
            self._writer.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        # No transactions of sqlite3's own making; the locks here guard what its thread check would.
        return sqlite3.connect(
            ":memory:" if self._path is None else self._path,
            isolation_level=None,
            check_same_thread=False,
        )

    @staticmethod
    def set_aside(path: Path) -> None:
        """Rename a damaged index file, so that a new one can be made."""
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        if path.exists():
            os.replace(path, path.with_name(path.name + ".damaged"))

    def find(self, address: bytes) -> Place | None:
        """Look up a chunk.

        Raises:
            IndexDamaged: SQLite met something it can't read.
        """
        query = 'SELECT pack, "offset", length FROM chunks WHERE address = ?'
        with self._looking, _damage():
            row = self._reader.execute(query, (address,)).fetchone()
        if row is None:
            return None
        if not all(isinstance(number, int) and number >= 0 for number in row):
            raise IndexDamaged("the place of a chunk is no place")
        return Place(*row)

    def chunks(self) -> list[tuple[bytes, Place]]:
        """Return all chunks; for the writer.

        Raises:
            IndexDamaged: SQLite met something it can't read.
        """
        with self._writing, _damage():
            query = 'SELECT address, pack, "offset", length FROM chunks'
            return [(address, Place(*place)) for address, *place in self._writer.execute(query)]

    def load(self) -> tuple[Catalog, dict[int, int]]:
        """Return the catalog, and up to where each pack was read for it.

        Raises:
            IndexDamaged: something is missing or not as it was written.
        """
        catalog = Catalog()
        with self._writing, _damage():
            run = self._writer.execute
            state = run("SELECT last_seq, checksum FROM state").fetchall()
            ends = dict(run("SELECT pack, indexed FROM packs").fetchall())
            if not state and not ends:
                return catalog, ends  # a new one
            catalog.refs = dict(run("SELECT name, id FROM refs").fetchall())
            query = 'SELECT id, seq, parent, time, pack, "offset", length FROM commits ORDER BY seq'
            for id, seq, parent, time, *place in run(query):
                catalog.commits[id] = Entry(id, seq, parent, time, Place(*place))
        if len(state) != 1:
            raise IndexDamaged("its state is missing")
        catalog.last_seq, checksum = state[0]
        try:
            right = catalog.checksum(ends) == checksum
        except TypeError:  # a flipped bit can make another type of a value
            right = False
        if not right:
            raise IndexDamaged("its catalog is not the one that was written")
        return catalog, ends

    def update(
        self,
        chunks: Iterable[tuple[bytes, Place]],
        catalog: Catalog,
        commits: Iterable[Entry],
        ends: Mapping[int, int],
        *,
        gone_chunks: Iterable[bytes] = (),
        gone_commits: Iterable[bytes] = (),
    ) -> None:
        """Take in what has changed, in one transaction.

        Args:
            chunks: with their places, which replace earlier ones.
            catalog: as it is afterwards.
            commits: those of the catalog that are new or have moved.
            ends: how far each pack was read, by number.
            gone_chunks: addresses to remove first.
            gone_commits: ids to remove first.

        Raises:
            sqlite3.Error: nothing was changed; the disk may be full.
            IndexDamaged: nothing was changed, and never will be.
        """
        with self._transaction() as connection:
            run, run_many = connection.execute, connection.executemany
            run_many("DELETE FROM chunks WHERE address = ?", ((gone,) for gone in gone_chunks))
            run_many("DELETE FROM commits WHERE id = ?", ((gone,) for gone in gone_commits))
            run_many(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?)",
                ((address, *place) for address, place in chunks),
            )
            run_many(
                "INSERT OR REPLACE INTO commits VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((*entry[:4], *entry.place) for entry in commits),
            )
            run("DELETE FROM refs")
            run_many("INSERT INTO refs VALUES (?, ?)", catalog.refs.items())
            run("DELETE FROM packs")
            run_many("INSERT INTO packs VALUES (?, ?)", ends.items())
            run("DELETE FROM state")
            run(
                "INSERT INTO state VALUES (?, ?)",
                (catalog.last_seq, catalog.checksum(ends)),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:  # some errors roll back by themselves
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.DatabaseError) and _is_damage(error):
                    raise IndexDamaged(f"SQLite says: {error}") from None
                raise

    def checkpoint(self) -> None:
        """Make all transactions safe from a power cut.

        Raises:
            sqlite3.Error: not possible now.
        """
        with self._writing:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close both connections."""
        with self._writing, self._looking:
            self._reader.close()
            self._writer.close()


@contextmanager
def _damage() -> Iterator[None]:
    """Whatever goes wrong in reading or opening: it is cheaper to make a new one than to ask."""
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise IndexDamaged(f"SQLite says: {error}") from None


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    # OperationalError is what a full disk gives, but also a schema that is not what it was.
    # ProgrammingError: closed, because making it anew has failed before.
    kinds = (sqlite3.DatabaseError, sqlite3.ProgrammingError)
    return type(error) in kinds or "no such" in str(error)
