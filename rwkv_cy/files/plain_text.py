"""Whether the first bytes of a file are those of a text."""

from __future__ import annotations

import codecs
import os

from rwkv_cy.errors import FormatError

__all__ = ["HEAD_BYTES", "require_text"]

#: Bytes at the beginning of a file that are looked at.
HEAD_BYTES = 1 << 16


def require_text(path: str | os.PathLike[str], head: bytes, advice: str) -> None:
    """Raise FormatError if a file that begins with `head` is not a text in an encoding that extends ASCII.

    Parameters
    ----------
    path : path
        The file, for the message.
    head : bytes
        Its first bytes.
    advice : str
        What to do about a binary file.
    """
    if b"\0" not in head:
        return
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FormatError(f"{path}: expected a text in UTF-8, got one in UTF-16; save it as UTF-8")
    raise FormatError(f"{path}: expected a text, got a binary file; {advice}")
