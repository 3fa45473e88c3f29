"""One tensor as a stranger's file describes it, and the file of each format that has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from formats.foreign import rwkvcpp_header, rwkvcpp_tensor
from formats.make_gguf import Gguf, Tensor, value
from formats.make_pth import NONE, archive, legacy, storage, tensor, text
from storage.small import BARE_HEADER, change_footer, few_tensors, forge, write_small

__all__ = ["FORMATS", "Described", "Impossible"]

_DATA = bytes(range(16))


class Impossible(Exception):  # noqa: N818 (a cell of the table, not an error)
    """A format has nothing in which this could be said; the message tells why."""


@dataclass(frozen=True)
class Described:
    """What a file says of its only tensor, which has 16 bytes: a valid one, unless something is given.

    Attributes
    ----------
    name : bytes
    shape : sequence of int
    offset : int, optional
        Where its bytes begin, counted as the format does.
    strides : sequence of int, optional
        In elements.
    count : int, optional
        How many tensors there are.
    twice : bool
        Whether it is described twice, with bytes of its own each time.
    overlapping : bool
        Whether a second tensor has half of its bytes.
    """

    name: bytes = b"x"
    shape: Sequence[int] = (2, 2)
    offset: int | None = None
    strides: Sequence[int] | None = None
    count: int | None = None
    twice: bool = False
    overlapping: bool = False

    @property
    def names(self) -> list[bytes]:
        """The names in their order."""
        return [self.name] * (1 + self.twice) + [b"y"] * self.overlapping


def _no_strides(what: Described) -> None:
    if what.strides is not None:
        raise Impossible("the format has no strides")


def _unsigned(numbers: Sequence[int], bits: int) -> None:
    if any(not 0 <= number < 1 << bits for number in numbers):
        raise Impossible(f"its numbers are unsigned, of {bits} bits")


def _safetensors(what: Described, path: Path) -> None:
    _no_strides(what)
    entries = []
    for i, name in enumerate(what.names):
        start = 16 * i if what.offset is None else what.offset
        if what.overlapping:
            start = 8 * i
        shown = name if name in (b"x", b"y") else json.dumps(name.decode("latin-1"))[1:-1].encode()
        shown = name if name == b"\xff\xfe" else shown
        rest = {"dtype": "F32", "shape": list(what.shape), "data_offsets": [start, start + 16]}
        entries.append(b'"%s":%s' % (shown, json.dumps(rest).encode()))
    header = b"{%s}" % b",".join(entries)
    length = len(header) if what.count is None else what.count
    path.write_bytes(length.to_bytes(8, "little") + header + _DATA * len(what.names))


def _gguf(what: Described, path: Path) -> None:
    _no_strides(what)
    _unsigned([*what.shape, what.offset or 0], 64)
    offsets = [8 * i if what.overlapping else what.offset for i in range(len(what.names))]
    tensors = [Tensor(name, what.shape, _DATA, 0, offset) for name, offset in zip(what.names, offsets, strict=True)]
    values = [
        ("general.architecture", value("string", "rwkv7")),
        ("general.alignment", value("uint32", 8)),
        ("rwkv7.wkv.head_size", value("uint32", 2)),
    ]
    path.write_bytes(Gguf(values, tensors, tensor_count=what.count, alignment=8).to_bytes())


def _rwkvcpp(what: Described, path: Path) -> None:
    _no_strides(what)
    _unsigned(what.shape, 32)
    if what.offset is not None or what.overlapping:
        raise Impossible("tensors follow each other; there are no offsets")
    layers = 0 if what.count is None else min(what.count, (1 << 32) - 1)
    tensors = [rwkvcpp_tensor(name, tuple(what.shape), _DATA) for name in what.names]
    path.write_bytes(rwkvcpp_header(6, 32, layers) + b"".join(tensors))


def _pickled(what: Described, *rest: bytes) -> bytes:
    """Return the opcodes of the dictionary of tensors."""
    if what.count is not None:
        raise Impossible("a pickle does not say how many tensors it has")
    items = b""
    for i, name in enumerate(what.names):
        key = "0" if what.overlapping else str(i)
        offset = 2 * i if what.overlapping else what.offset or 0
        shape = (2,) if what.overlapping and i else what.shape
        items += text(name) + tensor(storage("FloatStorage", key, 4, *rest), shape, what.strides, offset)
    return b"}(" + items + b"u"


def _pth(what: Described, path: Path) -> None:
    archive(_pickled(what), [_DATA] * len(what.names)).write(path)


def _legacy(what: Described, path: Path) -> None:
    storages = {str(i): (4, _DATA) for i in range(1 if what.overlapping else len(what.names))}
    path.write_bytes(legacy(_pickled(what, NONE), storages))


def _hdf5(what: Described, path: Path) -> None:
    _no_strides(what)
    write_small(path, few_tensors(), BARE_HEADER)
    if what == Described():
        return
    if what.count is not None:
        change_footer(path, index_size=what.count)
        return
    if len(what.name) > 1000:
        raise Impossible("its index has a fixed size, which the footer states")
    if what.overlapping:
        forge(path, lambda index: _same_offset(index))
        return
    if what.twice:
        forge(path, lambda index: index.replace(b"parameters/ln_out.bias", b"parameters/emb.weight"))
        return
    forge(path, lambda index: _changed_entry(index, what))


def _same_offset(index: bytes) -> bytes:
    offsets = [entry["offset"] for entry in json.loads(index)["datasets"]]
    return index.replace(b'"offset":%d' % offsets[1], b'"offset":%d' % offsets[0])


def _changed_entry(index: bytes, what: Described) -> bytes:
    content = json.loads(index)
    entry = content["datasets"][0]
    if what.name != b"x":
        marker = "\N{BLACK SQUARE}"
        entry["path"] = f"parameters/{marker}"
        new = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        return new.replace(marker.encode(), what.name)
    if what.offset is not None:
        entry["offset"] = what.offset
    if tuple(what.shape) != Described().shape:
        entry["shape"] = list(what.shape)
    return json.dumps(content, separators=(",", ":")).encode()


#: By name: writes the file with the described tensor, or raises Impossible.
FORMATS: dict[str, Callable[[Described, Path], None]] = {
    "HDF5": _hdf5,
    "pth": _pth,
    "legacy pth": _legacy,
    "safetensors": _safetensors,
    "GGUF": _gguf,
    "rwkv.cpp": _rwkvcpp,
}
