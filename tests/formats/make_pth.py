"""Hand-written PyTorch checkpoints, valid and invalid: pickles by opcode, zip archives by field."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STORAGES = {"f64": "DoubleStorage", "f32": "FloatStorage", "f16": "HalfStorage", "bf16": "BFloat16Storage"}
ITEMSIZES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2}

# Pickles: each function gives the opcodes that leave one object on the stack.


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def sequence(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def integers(values: Iterable[int]) -> bytes:
    return sequence(*map(integer, values))


def dictionary(items: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> bytes:
    pairs = items.items() if isinstance(items, Mapping) else items
    return b"}(" + b"".join(text(key) + value for key, value in pairs) + b"u"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + sequence(*arguments) + b"R"


ORDERED_DICT = name("collections", "OrderedDict") + b")R"
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"


def storage(kind: str, key: str, count: int, *rest: bytes) -> bytes:
    """A persistent id; `rest` is ``NONE`` in the legacy stream."""
    return sequence(text("storage"), name("torch", kind), text(key), text("cpu"), integer(count), *rest) + b"Q"


def tensor(stored: bytes, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0) -> bytes:
    steps = contiguous(shape) if strides is None else strides
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        stored,
        integer(offset),
        integers(shape),
        integers(steps),
        FALSE,
        ORDERED_DICT,
    )


def parameter(of: bytes) -> bytes:
    return call(name("torch._utils", "_rebuild_parameter"), of, TRUE, ORDERED_DICT)


def contiguous(shape: Sequence[int]) -> list[int]:
    return [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]


#: A tuple in which each item holds the one before twice: printed, it would have 2**100 items.
LAUGHS = (
    b"(]q\x00" + b"".join(b"(h" + bytes([i]) + b"h" + bytes([i]) + b"tq" + bytes([i + 1]) for i in range(100)) + b"t"
)


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


# Zip archives


@dataclass
class Entry:
    """One entry of an archive; what is not None stands in its headers in place of the truth."""

    name: str | bytes
    data: bytes
    hole: int = 0  # bytes of zeros after the data, never written
    crc: int | None = None
    flags: int = 0x808
    method: int = 0
    size: int | None = None
    stored_size: int | None = None
    header_offset: int | None = None
    local_name: str | bytes | None = None
    local_sizes: tuple[int, int] = (0, 0)  # stored, whole
    local_signature: bytes = b"PK\x03\x04"
    local_method: int = 0
    descriptor: bytes | None = None
    disk: int = 0
    extra: bytes | None = None

    def raw_name(self) -> bytes:
        return self.name.encode() if isinstance(self.name, str) else self.name


def deflated(title: str, data: bytes) -> Entry:
    """An entry that is stored deflated."""
    packed = zlib.compress(data, wbits=-zlib.MAX_WBITS)
    sizes = {"size": len(data), "stored_size": len(packed), "crc": zlib.crc32(data)}
    return Entry(title, packed, method=8, local_method=8, **sizes)


@dataclass
class Zip:
    """An archive; what is not None stands in the end of its directory in place of the truth."""

    entries: list[Entry]
    wide: bool = False
    align: int = 1  # of each entry's data, by padding as torch pads
    count: int | None = None
    directory_size: int | None = None
    directory_offset: int | None = None
    disk: int = 0
    locator_disks: int = 1
    end64_signature: bytes = b"PK\x06\x06"
    trailing: bytes = b""
    comment: bytes = b""
    pieces: list[tuple[int, bytes]] = field(default_factory=list, repr=False)

    def lay_out(self) -> int:
        """Fill `pieces` with (offset, bytes); return the size of the whole."""
        self.pieces.clear()
        position = 0
        central = b""
        for entry in self.entries:
            header = self._local_header(entry, position)
            self.pieces.append((position, header + entry.data))
            central += self._central_header(entry, position)
            position += len(header) + len(entry.data) + entry.hole
            descriptor = self._descriptor(entry)
            self.pieces.append((position, descriptor))
            position += len(descriptor)
        end = central + self._end(position, len(central)) + self.trailing
        self.pieces.append((position, end))
        return position + len(end)

    def to_bytes(self) -> bytes:
        result = bytearray(self.lay_out())
        for offset, piece in self.pieces:
            result[offset : offset + len(piece)] = piece
        return bytes(result)

    def write(self, path: Path) -> Path:
        size = self.lay_out()
        with path.open("wb") as file:
            file.truncate(size)
            for offset, piece in self.pieces:
                file.seek(offset)
                file.write(piece)
        return path

    def _local_header(self, entry: Entry, position: int) -> bytes:
        raw = entry.raw_name() if entry.local_name is None else entry.local_name
        raw = raw.encode() if isinstance(raw, str) else raw
        fields = (entry.local_signature, 0, entry.flags, entry.local_method, 0, 0, 0, *entry.local_sizes, len(raw))
        padding = -(position + 34 + len(raw)) % self.align
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding if self.align > 1 else b""
        return struct.pack("<4s5H3L2H", *fields, len(extra)) + raw + extra

    def _descriptor(self, entry: Entry) -> bytes:
        size = len(entry.data) + entry.hole
        if entry.descriptor is not None or not entry.flags & 8 or not size:
            return entry.descriptor or b""
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        whole = size if entry.size is None or not entry.method else entry.size
        return struct.pack("<4sL2Q" if self.wide else "<4s3L", b"PK\x07\x08", crc, size, whole)

    def _central_header(self, entry: Entry, position: int) -> bytes:
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) + entry.hole if entry.size is None else entry.size
        stored = size if entry.stored_size is None else entry.stored_size
        offset = position if entry.header_offset is None else entry.header_offset
        wide = b"".join(struct.pack("<Q", value) for value in (size, stored, offset) if value >= 0xFFFFFFFF)
        extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
        if entry.extra is not None:
            extra = entry.extra
        sizes = [min(value, 0xFFFFFFFF) for value in (stored, size)]
        fields = (b"PK\x01\x02", 0, 0, entry.flags, entry.method, 0, 0, crc, *sizes, len(entry.raw_name()))
        more = (len(extra), 0, entry.disk, 0, 0, min(offset, 0xFFFFFFFF))
        return struct.pack("<4s6H3L5H2L", *fields, *more) + entry.raw_name() + extra

    def _end(self, position: int, length: int) -> bytes:
        count = len(self.entries) if self.count is None else self.count
        size = length if self.directory_size is None else self.directory_size
        offset = position if self.directory_offset is None else self.directory_offset
        here = position + length
        result = b""
        if self.wide:
            result = struct.pack("<4sQ2H2L4Q", self.end64_signature, 44, 0, 45, 0, 0, count, count, size, offset)
            result += struct.pack("<4sLQL", b"PK\x06\x07", 0, here, self.locator_disks)
        small = (min(count, 0xFFFF), min(count, 0xFFFF), min(size, 0xFFFFFFFF), min(offset, 0xFFFFFFFF))
        return result + struct.pack("<4s4H2LH", b"PK\x05\x06", self.disk, 0, *small, len(self.comment)) + self.comment


# Checkpoints


def small_arrays() -> dict[str, tuple[str, Array]]:
    """A tensor of every type, as (storage type, array)."""
    return {
        "emb.weight": ("f32", np.arange(6, dtype="<f4").reshape(2, 3) - 2.5),
        "blocks.0.att.time_decay": ("f16", np.linspace(-1, 1, 5).astype("<f2")),
        "blocks.0.att.time_mix_k": ("bf16", np.arange(0x3F80, 0x3F84, dtype="<u2").reshape(1, 1, 4)),
        "ln_out.bias": ("f64", np.asarray([0.1, -1e300])),
    }


def tensors(arrays: Mapping[str, tuple[str, Array]], *rest: bytes) -> dict[str, bytes]:
    """Opcodes of each array as a tensor over a storage of its own; keys of storages count from 0."""
    return {
        title: tensor(storage(STORAGES[dtype], str(key), array.size, *rest), array.shape)
        for key, (title, (dtype, array)) in enumerate(arrays.items())
    }


def archive(body: bytes, storages: Sequence[bytes], *, folder: str = "small", **options: Any) -> Zip:
    """An archive of a pickle whose opcodes are `body`, and storages with the keys 0, 1, ..."""
    entries = [
        Entry(f"{folder}/data.pkl", pickled(body)),
        Entry(f"{folder}/byteorder", b"little"),
        *(Entry(f"{folder}/data/{key}", data) for key, data in enumerate(storages)),
        Entry(f"{folder}/version", b"3\n"),
    ]
    return Zip(entries, **options)


def zip_checkpoint(arrays: Mapping[str, tuple[str, Array]], **options: Any) -> Zip:
    """The archive of a plain state dict."""
    return archive(dictionary(tensors(arrays)), [array.tobytes() for _, array in arrays.values()], **options)


MAGIC, PROTOCOL = integer(0x1950A86A20F9469CFC6C), b"M" + struct.pack("<H", 1001)
SYSTEM = dictionary({"protocol_version": PROTOCOL, "little_endian": TRUE})


def legacy(
    body: bytes,
    storages: Mapping[str, tuple[int, bytes]],
    *,
    magic: bytes = MAGIC,
    protocol: bytes = PROTOCOL,
    system: bytes = SYSTEM,
    keys: bytes | None = None,
) -> bytes:
    """A legacy stream; `storages` gives count and bytes by key."""
    listed = b"](" + b"".join(map(text, storages)) + b"e" if keys is None else keys
    head = b"".join(map(pickled, (magic, protocol, system, body, listed)))
    return head + b"".join(struct.pack("<q", count) + data for count, data in storages.values())


def legacy_checkpoint(arrays: Mapping[str, tuple[str, Array]]) -> bytes:
    """The legacy stream of a plain state dict."""
    storages = {str(key): (array.size, array.tobytes()) for key, (_, array) in enumerate(arrays.values())}
    return legacy(dictionary(tensors(arrays, NONE)), storages)
