"""How large an image is, read from its first bytes; no image library is worth a dependency here."""

from __future__ import annotations

import base64
import binascii
import struct

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8"
# Start-of-frame markers; C4, C8 and CC in that range mean something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def pixel_size(data: str) -> tuple[int, int] | None:
    """Return the width and height in pixels of a base64 PNG or JPEG, None for anything else."""
    try:
        content = base64.b64decode(data)
    except (binascii.Error, ValueError):
        return None
    try:
        if content.startswith(_PNG_SIGNATURE):
            width, height = struct.unpack_from(">II", content, 16)
            return width, height
        if content.startswith(_JPEG_SIGNATURE):
            return _jpeg_size(content)
    except struct.error:  # cut short
        pass
    return None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Walk the segments up to the one that starts the frame."""
    position = len(_JPEG_SIGNATURE)
    while content[position : position + 1] == b"\xff":
        marker, length = struct.unpack_from(">xBH", content, position)
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, position + 5)
            return width, height
        position += 2 + length
    return None
