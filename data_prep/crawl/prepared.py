"""What the processes that prepare images say: a clean image, or why there is none; and how both are put into bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_FORM = struct.Struct("<iIIq32s")
READY = b"ready\n"
REQUEST_BYTES, ANSWER_BYTES = 4, _FORM.size


class UnusableImageError(ValueError):
    """Bytes that give no image; the message is the reason that the catalog keeps."""


@dataclass(frozen=True)
class Prepared:
    """A clean image: its JPEG bytes and size, and what identifies the original."""

    jpeg: bytes
    width: int
    height: int
    sha256: bytes
    hash: int


def packed(answer: Prepared | UnusableImageError) -> tuple[bytes, bytes]:
    """The answer as `ANSWER_BYTES` bytes, and what goes beside them: the JPEG, or the reason."""
    if isinstance(answer, Prepared):
        form = _FORM.pack(len(answer.jpeg), answer.width, answer.height, answer.hash, answer.sha256)
        return form, answer.jpeg
    reason = str(answer).encode()
    return _FORM.pack(-len(reason), 0, 0, 0, b""), reason


def beside(form: bytes) -> int:
    """How many bytes go beside a packed answer."""
    number: int = _FORM.unpack(form)[0]
    return abs(number)


def unpacked(form: bytes, content: bytes) -> Prepared | UnusableImageError:
    """The answer that was packed so."""
    number, width, height, hash, sha256 = _FORM.unpack(form)
    if number <= 0:
        return UnusableImageError(content.decode())
    return Prepared(content, width, height, sha256, hash)
