"""The bytes in front of a GGUF file's tensors: metadata, and descriptions of the tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rwkv_cy.formats.gguf.types import ARRAY, FLOAT32, INT32, SCALARS, STRING, TENSOR_TYPES, UINT32
from rwkv_cy.formats.signatures import GGUF_MAGIC

__all__ = ["TypedValue", "encode_header", "float32", "int32_array", "string", "string_array", "uint32"]

#: Type of a value, and its bytes.
TypedValue = tuple[int, bytes]

_VERSION = 3
_UINT32, _UINT64 = SCALARS[UINT32], SCALARS[10]
_NUMBERS = {name: number for number, name in TENSOR_TYPES.items()}


def uint32(number: int) -> TypedValue:
    """Return a value."""
    return UINT32, _UINT32.pack(number)


def float32(number: float) -> TypedValue:
    """Return a value."""
    return FLOAT32, SCALARS[FLOAT32].pack(number)


def string(text: str) -> TypedValue:
    """Return a value; what is not Unicode, as in some file names, becomes a question mark."""
    return STRING, _text(text.encode("utf-8", "replace"))


def string_array(texts: Sequence[bytes]) -> TypedValue:
    """Return an array of texts, given in UTF-8."""
    return ARRAY, _array(STRING, len(texts)) + b"".join(map(_text, texts))


def int32_array(numbers: Sequence[int]) -> TypedValue:
    """Return an array."""
    return ARRAY, _array(INT32, len(numbers)) + np.asarray(numbers, "<i4").tobytes()


def _array(kind: int, count: int) -> bytes:
    return _UINT32.pack(kind) + _UINT64.pack(count)


def _text(raw: bytes) -> bytes:
    return _UINT64.pack(len(raw)) + raw


def encode_header(
    values: Iterable[tuple[str, TypedValue]],
    tensors: Sequence[tuple[str, tuple[int, ...], str, int]],
    alignment: int,
) -> bytes:
    """Return all that precedes the data of the first tensor, padded to the alignment.

    Parameters
    ----------
    values : iterable of (str, TypedValue)
        Metadata by key.
    tensors : sequence of (str, tuple of int, str, int)
        Name, shape with the rows last, type (a value of TENSOR_TYPES), and offset from the first byte of the data.
    alignment : int
    """
    pairs = [_text(key.encode()) + _UINT32.pack(kind) + raw for key, (kind, raw) in values]
    described = [
        _text(name.encode())
        + _UINT32.pack(len(shape))
        + b"".join(_UINT64.pack(size) for size in reversed(shape))
        + _UINT32.pack(_NUMBERS[dtype])
        + _UINT64.pack(offset)
        for name, shape, dtype, offset in tensors
    ]
    counts = _UINT64.pack(len(described)) + _UINT64.pack(len(pairs))
    header = b"".join((GGUF_MAGIC, _UINT32.pack(_VERSION), counts, *pairs, *described))
    return header + bytes(-len(header) % alignment)
