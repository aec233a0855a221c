"""Reading arrays while what comes before them is unpickled.

Unpickling runs Python, and the first frame imports pandas; reading and hashing let the GIL go, and
can have another CPU meanwhile. Only arrays are read ahead: what is read becomes the arrays, and
takes no memory twice.

Threads: made and asked by the one that owns the namespace; reads on one of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from ..state.fingerprint import Contents, Image, Source, read


class ReadAhead:
    """Contents of images, in the order in which they will be wanted.

    Args:
        source: has their pieces.
        images: of co-variables about to be loaded.
    """

    def __init__(self, source: Source, images: Iterable[Image]) -> None:
        self._source = source
        self._reader = ThreadPoolExecutor(1, "savepoint-read-ahead")
        self._reads: dict[int, Future[Contents]] = {
            id(image): self._reader.submit(read, image, source) for image in images if image.buffers
        }

    def take(self, image: Image) -> Contents:
        """Return the contents of an image, which are the caller's from now on.

        Raises:
            CorruptStore: a piece is damaged or missing.
        """
        begun = self._reads.pop(id(image), None)
        return read(image, self._source) if begun is None else begun.result()

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(cancel_futures=True)
