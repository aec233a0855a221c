"""Packs: append-only files of records, the only place where anything is kept for good.

One file for many records, because a file and a rename for each costs fifteen times as much (1000
small records with fsync: 34 ms as files, 2.3 ms in a pack).

A record says what it is and has two checksums, one of its header and one of its payload. So a
reader that meets damage knows whether it may trust the length and go on behind the payload, or has
to look for the next header. The checksums (CRC-32) find accidents; against intent there are the
address of a chunk, which is a cryptographic hash of its bytes, and the MAC of a commit.

Threads: one writer appends; any thread may read. A pack's lock makes seek and read one step
(`os.pread` does not exist on Windows).
"""

from __future__ import annotations

import enum
import os
import re
import struct
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..exceptions import CorruptStore

PACK_BYTES = 256 << 20
"""A pack that has reached this size gets no more records."""

_MAGIC = b"\xf5SVP"
_FIELDS = struct.Struct("<4sBBHII32sI")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECK.size
_GATHER = 1 << 18  # records up to this many bytes are written together
_NAME = re.compile(r"(\d{6,})\.pack")


class Kind(enum.IntEnum):
    """What a record holds."""

    CHUNK = 1
    COMMIT = 2
    REF = 3
    KEPT = 4


class Codec(enum.IntEnum):
    """How a payload is stored."""

    RAW = 0
    ZSTD = 1


class Place(NamedTuple):
    """Where a record is: pack number, offset of its header, bytes with the header."""

    pack: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a record says of itself.

    Attributes:
        length: stored bytes of the payload.
        raw_length: its bytes before compression.
        address: the chunk's address or the commit's id; zeros for other kinds.
        check: CRC-32 of the stored payload.
    """

    kind: Kind
    codec: Codec
    length: int
    raw_length: int
    address: bytes
    check: int

    def pack(self) -> bytes:
        """Return the header's bytes."""
        fields = _FIELDS.pack(
            *(_MAGIC, self.kind, self.codec, 0, self.length, self.raw_length),
            *(self.address, self.check),
        )
        return fields + _CHECK.pack(zlib.crc32(fields))

    @classmethod
    def parse(cls, data: bytes | bytearray) -> Header | None:
        """Return the header that ``data`` begins with, None if there is no whole one."""
        if len(data) < HEADER_BYTES or not data.startswith(_MAGIC):
            return None
        if _CHECK.unpack_from(data, _FIELDS.size)[0] != zlib.crc32(data[: _FIELDS.size]):
            return None
        _, kind, codec, _, length, raw_length, address, check = _FIELDS.unpack_from(data)
        try:
            return cls(Kind(kind), Codec(codec), length, raw_length, address, check)
        except ValueError:  # of a later version
            return None


class Found(NamedTuple):
    """A whole record met by `Packs.scan`; the payload is None for chunks, which are many."""

    place: Place
    header: Header
    payload: bytes | None


class Damage(NamedTuple):
    """Bytes met by `Packs.scan` that are no whole record."""

    pack: int
    start: int
    end: int


class _Pack:
    def __init__(self, number: int, file: BinaryIO, path: Path | None) -> None:
        self.number = number
        self.path = path
        self._file = file
        self._lock = threading.Lock()
        self.size = file.seek(0, os.SEEK_END)

    def read(self, offset: int, length: int) -> bytes:
        """Read up to ``length`` bytes; ValueError if the pack was removed meanwhile."""
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(length)
            while 0 < len(data) < length:
                more = self._file.read(length - len(data))
                if not more:
                    break
                data += more
            return data

    def read_into(self, offset: int, *buffers: bytearray | memoryview) -> int:
        """Fill buffers, several threads at a time; returns how many bytes there were.

        Raises ValueError if the pack was removed before. If it is removed meanwhile, the bytes may
        be those of any file.
        """
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), buffers, offset)
        data = self.read(offset, sum(map(len, buffers)))
        start = 0
        for buffer in buffers:
            part = data[start : start + len(buffer)]
            buffer[: len(part)] = part
            start += len(buffer)
        return len(data)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        with self._lock:
            self._file.seek(self.size)
            while len(view):  # a nearly full disk takes a part
                written = self._file.write(view)
                self.size += written
                view = view[written:]

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self.size = size

    def sync(self) -> None:
        if sys.platform == "darwin":  # fsync alone leaves data in the drive's cache there
            import fcntl

            fcntl.fcntl(self._file.fileno(), fcntl.F_FULLFSYNC)
        else:
            os.fsync(self._file.fileno())

    def is_in_place(self) -> bool:
        """Tell whether the file still has its name: one that was deleted accepts writes."""
        if self.path is None:
            return True
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        with self._lock:
            self._file.close()


class Packs:
    """The packs of one store.

    Args:
        directory: where they are; None for anonymous temporary files.
        writable: whether a missing pack may be made and records be appended.

    Raises:
        OSError: the directory or a pack can't be opened.
    """

    def __init__(self, directory: Path | None, *, writable: bool = True) -> None:
        self._directory = directory
        self._packs: dict[int, _Pack] = {}
        self._gathered = bytearray()
        self._mark: tuple[int, int] | None = None
        for number, path in _pack_files(directory):
            file = open(path, "r+b" if writable else "rb", buffering=0)  # noqa: SIM115
            self._packs[number] = _Pack(number, file, path)
        if writable and not self._packs:
            self.roll()

    @property
    def numbers(self) -> list[int]:
        """The packs there are, oldest first."""
        return sorted(self._packs)

    @property
    def active(self) -> int:
        """The pack that records are appended to."""
        return max(self._packs)

    def size(self, number: int) -> int:
        """Return the bytes of one pack."""
        return self._packs[number].size

    def total_size(self) -> int:
        """Return the bytes of all packs."""
        return sum(pack.size for pack in list(self._packs.values()))

    def ends(self) -> dict[int, int]:
        """Return how far each pack is written."""
        return {number: self._packs[number].size for number in self.numbers}

    # ---- writing: one thread

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Append inside the block; take all back if it raises.

        Raises:
            FileNotFoundError: the pack was deleted by someone else.
            OSError: an earlier batch that failed is still there and can't be taken back.
        """
        if self._mark is not None:
            self._rewind()
        pack = self._packs[self.active]
        if not pack.is_in_place():
            raise FileNotFoundError(f"the pack {pack.path} was deleted")
        self._mark = (pack.number, pack.size)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the next batch tries again
                self._rewind()
            raise
        self._mark = None

    def _rewind(self) -> None:
        assert self._mark is not None
        number, size = self._mark
        self._gathered.clear()
        for later in [n for n in self._packs if n > number]:
            self.remove(later)
        self._packs[number].truncate(size)
        self._mark = None

    def append(
        self,
        kind: Kind,
        payload: bytes | memoryview,
        address: bytes = bytes(32),
        codec: Codec = Codec.RAW,
        raw_length: int | None = None,
    ) -> Place:
        """Append a record. It is safe after the next `sync`."""
        length = len(payload)
        header = Header(
            *(kind, codec, length, length if raw_length is None else raw_length),
            *(address, zlib.crc32(payload)),
        )
        return self.append_raw(header.pack(), payload)

    def append_raw(self, header: bytes, payload: bytes | memoryview) -> Place:
        """Append a record whose header is there already."""
        pack = self._packs[self.active]
        if pack.size + len(self._gathered) >= PACK_BYTES:
            self.roll()
            pack = self._packs[self.active]
        length = len(header) + len(payload)
        place = Place(pack.number, pack.size + len(self._gathered), length)
        self._gathered += header
        if length <= _GATHER:
            self._gathered += payload
        if length > _GATHER or len(self._gathered) > _GATHER:
            self._write_gathered(pack)
        if length > _GATHER:
            pack.append(payload)
        return place

    def sync(self) -> None:
        """Make everything appended safe from a power cut."""
        pack = self._packs[self.active]
        self._write_gathered(pack)
        if pack.path is not None:
            pack.sync()

    def _write_gathered(self, pack: _Pack) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        pack.append(gathered)

    def truncate(self, number: int, size: int) -> None:
        """Cut off the end of a pack, where a crash tore a record."""
        self._packs[number].truncate(size)

    def roll(self) -> None:
        """Go on in a new pack; the old one is safe before."""
        number = 1
        if self._packs:
            self.sync()
            number += self.active
        if self._directory is None:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            self._packs[number] = _Pack(number, file, None)
            return
        path = self._directory / f"{number:06}.pack"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
        file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115
        self._packs[number] = _Pack(number, file, path)
        sync_directory(self._directory)

    def remove(self, number: int) -> None:
        """Delete a pack."""
        pack = self._packs.pop(number)
        pack.close()
        if pack.path is not None:
            pack.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close all files."""
        for pack in self._packs.values():
            pack.close()

    # ---- reading: any thread

    def read(self, place: Place, address: bytes) -> tuple[Header, bytes]:
        """Read the record at a place.

        Raises:
            LookupError: no record of this address begins there: the place is wrong.
            CorruptStore: one does, but its payload is damaged.
        """
        try:
            data = self._packs[place.pack].read(place.offset, place.length)
        except (KeyError, ValueError, OverflowError):  # the pack was removed, or never was
            raise LookupError(f"pack {place.pack} is gone") from None
        header = Header.parse(data)
        if header is None or header.address != address:
            raise LookupError(f"no record of {address.hex()} at {place}")
        payload = data[HEADER_BYTES:]
        if len(payload) != header.length or zlib.crc32(payload) != header.check:
            raise CorruptStore(f"{self._where(place)} is damaged; {_WAY_OUT}")
        return header, payload

    def read_raw(self, place: Place, address: bytes, into: memoryview) -> bool:
        """Read a chunk that is stored as it is; its payload is not checked.

        Returns:
            False if it is not stored as it is, or has another length; then `read` tells more.
        """
        if place.length != HEADER_BYTES + len(into):
            return False
        start = bytearray(HEADER_BYTES)
        try:
            count = self._packs[place.pack].read_into(place.offset, start, into)
        except (KeyError, ValueError, OverflowError, OSError):
            return False
        header = Header.parse(start)
        return (
            count == place.length
            and header is not None
            and header.address == address
            and header.codec is Codec.RAW
        )

    def scan(self, number: int, start: int = 0, *, chunks: bool = True) -> Iterator[Found | Damage]:
        """Go through the records of a pack and through what is none.

        Args:
            number: the pack.
            start: where a record begins.
            chunks: whether to read the payloads of chunks, to see if they are whole.
        """
        pack = self._packs[number]
        offset = start
        while offset < pack.size:
            header = Header.parse(pack.read(offset, HEADER_BYTES))
            end = offset + HEADER_BYTES + header.length if header else offset
            if header is None or end > pack.size:
                end = self._next_header(pack, offset + 1)
                yield Damage(number, offset, end)
            else:
                payload = None
                if chunks or header.kind is not Kind.CHUNK:
                    payload = pack.read(offset + HEADER_BYTES, header.length)
                if payload is not None and zlib.crc32(payload) != header.check:
                    yield Damage(number, offset, end)
                else:
                    place = Place(number, offset, end - offset)
                    yield Found(place, header, None if header.kind is Kind.CHUNK else payload)
            offset = end

    @staticmethod
    def _next_header(pack: _Pack, offset: int) -> int:
        block_bytes = 1 << 20
        while offset < pack.size:
            block = pack.read(offset, block_bytes)
            at = block.find(_MAGIC)
            while at >= 0:
                if Header.parse(pack.read(offset + at, HEADER_BYTES)):
                    return offset + at
                at = block.find(_MAGIC, at + 1)
            offset += max(
                1, len(block) - len(_MAGIC) + 1
            )  # one may begin in this block's last bytes
        return pack.size

    def _where(self, place: Place) -> str:
        path = self._packs[place.pack].path
        return f"the record at byte {place.offset} of {path or 'a temporary pack'}"


_WAY_OUT = "an older checkpoint, or another one without this value, may be whole"
_BINARY = getattr(os, "O_BINARY", 0)


def sync_directory(directory: Path) -> None:
    """Make names in a directory safe from a power cut."""
    if os.name != "posix":  # a directory can't be opened elsewhere
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pack_files(directory: Path | None) -> Iterator[tuple[int, Path]]:
    if directory is not None:
        for path in directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                yield int(match[1]), path
