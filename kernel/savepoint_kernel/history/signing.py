"""The key that tells this user's commits from anybody else's.

Loading a pickle is running code, so a commit counts only if it carries a MAC under a key that this
user alone can read. It protects from files that come from elsewhere; not from code run by the same
user, which can read the key.

The key is our own, not Jupyter's `notebook_secret`: that one speaks of trusted output, and is
created readable by others for a moment.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir

from ..exceptions import CorruptStore

KEY_BYTES = 32
MAC_BYTES = 32
KEY_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret and what it signs.

    Attributes:
        secret: 32 random bytes; never in a repr.
    """

    secret: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """What names the key in public: 16 bytes."""
        digest = hashlib.blake2b(
            key=self.secret, digest_size=KEY_ID_BYTES, person=b"savepoint key id"
        )
        return digest.digest()

    def mac(self, message: bytes) -> bytes:
        """Return the MAC of a commit's ``message``: 32 bytes."""
        digest = hashlib.blake2b(
            message, key=self.secret, digest_size=MAC_BYTES, person=b"savepoint commit"
        )
        return digest.digest()

    def verifies(self, message: bytes, mac: bytes) -> bool:
        """Tell whether ``mac`` was made from ``message`` with this key."""
        return hmac.compare_digest(self.mac(message), mac)

    @classmethod
    def load(cls, path: Path | None = None) -> SigningKey:
        """Read the user's key; make it if there is none.

        Args:
            path: the key file; ``savepoint/key`` in Jupyter's data directory if None.

        Raises:
            PermissionError: it belongs to another user, or others have a permission for it.
            CorruptStore: it is not 32 bytes long.
            OSError: it can't be read or made.
        """
        path = default_key_path() if path is None else path
        try:
            return cls._read(path)
        except FileNotFoundError:
            pass
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path, secrets.token_bytes(KEY_BYTES))
        return cls._read(path)  # that of another process, if it was quicker

    @classmethod
    def _read(cls, path: Path) -> SigningKey:
        with open(path, "rb") as file:
            if os.name == "posix":  # elsewhere the mode says nothing
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid():
                    raise PermissionError(
                        f"the signing key {path} belongs to user {status.st_uid}, not to you: "
                        "whoever owns it can sign code that your kernel would run; "
                        "remove it to get a new one"
                    )
                if stat.S_IMODE(status.st_mode) & 0o077:
                    raise PermissionError(
                        f"the signing key {path} is open to others "
                        f"(mode {stat.S_IMODE(status.st_mode):04o}): if nobody has read it, "
                        "`chmod 600` it, else remove it to get a new one"
                    )
            secret = file.read(KEY_BYTES + 1)
        if len(secret) != KEY_BYTES:
            raise CorruptStore(
                f"the signing key {path} is damaged: it is not {KEY_BYTES} bytes long; remove it "
                "to get a new one (stores signed with the old one must then be trusted anew)"
            )
        return cls(secret)


def default_key_path() -> Path:
    """Return where the user's key is kept."""
    return Path(jupyter_data_dir()) / "savepoint" / "key"


def _create(path: Path, secret: bytes) -> None:
    """Put a whole key in place, or leave the one that came in between."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    _write_new(draft, secret)
    try:
        os.link(draft, path)  # unlike a rename it never replaces a key
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with suppress(FileExistsError):
            _write_new(path, secret)
    finally:
        os.unlink(draft)


def _write_new(path: Path, secret: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
