"""Session for a kernel whose threads send and receive at the same time."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from typing import Any

from jupyter_client.jsonutil import json_clean, json_default
from jupyter_client.session import Session


class SharedSession(Session):
    """Session whose message ids and digest history may be used from several threads.

    Stock Session counts messages with an unlocked ``+= 1`` (two threads can send one id) and culls
    its digest history by iterating a set that other threads add to.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._numbers = itertools.count()
        self._digest_lock = threading.Lock()
        super().__init__(**kwargs)
        self.pack = _with_surrogates(self.pack)

    @property
    def msg_id(self) -> str:
        """A new message id; unique in this process and in its forks."""
        return f"{self.session}_{os.getpid()}_{next(self._numbers)}"

    def _add_digest(self, signature: bytes) -> None:
        with self._digest_lock:
            super()._add_digest(signature)


def _with_surrogates(pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Let ``pack`` take text with lone surrogates, as file names and broken input have them.

    UTF-8 can't spell them, so a cell that prints or raises one would lose its message, or its
    reply. JSON can, by escapes.
    """

    def pack_any_text(obj: Any) -> bytes:
        try:
            return pack(obj)
        except UnicodeEncodeError:
            return json.dumps(json_clean(obj), default=json_default, allow_nan=False).encode()

    return pack_any_text
