"""The pickle of a state dict, written opcode by opcode: protocol 2, what torch.load takes with ``weights_only``.

Opcodes: CPython, Lib/pickletools.py. Objects: torch, _utils.py (``_rebuild_tensor_v2``) and serialization.py
(``persistent_id``).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from rwkv_cy.formats.writers.base import StoredTensor

__all__ = ["state_dict"]

_STORAGES = {"f64": "DoubleStorage", "f32": "FloatStorage", "f16": "HalfStorage", "bf16": "BFloat16Storage"}
_PROTOCOL, _EMPTY_DICT, _MARK, _SET_ITEMS, _STOP = b"\x80\x02", b"}", b"(", b"u", b"."
_TUPLE, _EMPTY_TUPLE, _REDUCE, _PERSISTENT, _FALSE = b"t", b")", b"R", b"Q", b"\x89"
_PUT, _GET = b"q", b"h"


def state_dict(tensors: Sequence[StoredTensor]) -> bytes:
    """Return the pickle of a dict of tensors by name; the storage of tensor N has the key ``"N"``."""
    memo: dict[bytes, int] = {}
    items = b"".join(_text(tensor.name) + _tensor(str(key), tensor, memo) for key, tensor in enumerate(tensors))
    return _PROTOCOL + _EMPTY_DICT + _MARK + items + _SET_ITEMS + _STOP


def _tensor(key: str, tensor: StoredTensor, memo: dict[bytes, int]) -> bytes:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks); `memo` is added to."""
    kind = _once(memo, _global("torch", _STORAGES[tensor.type.name]))
    what, location = _once(memo, _text("storage")), _once(memo, _text("cpu"))
    storage = _tuple(what, kind, _text(key), location, _integer(tensor.size)) + _PERSISTENT
    shape = tensor.shape
    strides = (math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    hooks = _once(memo, _global("collections", "OrderedDict")) + _EMPTY_TUPLE + _REDUCE
    arguments = storage, _integer(0), _tuple(*map(_integer, shape)), _tuple(*map(_integer, strides)), _FALSE, hooks
    return _once(memo, _global("torch._utils", "_rebuild_tensor_v2")) + _tuple(*arguments) + _REDUCE


def _once(memo: dict[bytes, int], made: bytes) -> bytes:
    """Return the opcodes of an object: those that make it and put it into the memo, and later one that gets it."""
    if made in memo:
        return _GET + struct.pack("<B", memo[made])
    memo[made] = len(memo)
    return made + _PUT + struct.pack("<B", memo[made])


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    """Return the shortest opcode for an integer that is not negative."""
    if value < 1 << 8:
        return b"K" + struct.pack("<B", value)
    if value < 1 << 16:
        return b"M" + struct.pack("<H", value)
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(*items: bytes) -> bytes:
    return _MARK + b"".join(items) + _TUPLE


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
