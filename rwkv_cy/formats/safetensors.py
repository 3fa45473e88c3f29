"""Safetensors files: a length, a JSON header, and the bytes of the tensors.

Source: github.com/huggingface/safetensors, README.md, "Format". Every rule of that page is checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.formats.base import MAX_HEADER_BYTES, MAX_TENSORS, FileBytes, check_name, check_shape
from rwkv_cy.formats.raw import RawSource, RawTensor
from rwkv_cy.tensors.tensor import TensorInfo
from rwkv_cy.units import exact_bytes

__all__ = ["open_safetensors"]

_LENGTH_BYTES = 8
#: An object of tensors, each an object with an array in it.
_HEADER_DEPTH = 3
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_TAKEN = {"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16"}
#: Bits of the numbers of other types, whose tensors are described and left out.
_LEFT_OUT = {"C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_LEFT_OUT |= {f"{kind}{bits}": bits for kind in "IU" for bits in (8, 16, 32, 64)}
_LEFT_OUT |= dict.fromkeys(("BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
_BITS = {**_LEFT_OUT, **{dtype: 8 * STORAGE_TYPES[taken].itemsize for dtype, taken in _TAKEN.items()}}


def open_safetensors(path: Path) -> RawSource:
    """Open a safetensors file, with its own names and shapes.

    The source's metadata is the header's ``__metadata__``. Empty tensors, and those of types that are not supported,
    are left out.

    Raises
    ------
    FormatError
        If the file violates the format.
    UnsupportedError
        If a tensor has a type that the format does not name.
    StorageError
        If the operating system reports an error.
    """
    file = FileBytes(path)
    try:
        header, data_start = _read_header(file)
        metadata = _check_metadata(path, header.pop(_METADATA, {}))
        if len(header) > MAX_TENSORS:
            raise FormatError(f"{path}: expected at most {MAX_TENSORS} tensors, got more; this is not an RWKV model")
        tensors: dict[str, RawTensor] = {}
        left_out: dict[str, str] = {}
        spans: list[tuple[int, int, str]] = []
        for name, fields in header.items():
            dtype, shape, begin, end = _entry(path, name, fields)
            spans.append((begin, end, name))
            storage = _TAKEN.get(dtype)
            if storage is None or begin == end:
                left_out[name] = f"{'' if math.prod(shape) else 'empty '}{dtype}, shape {shape}"
            else:
                info = TensorInfo(name, shape, storage, name, storage, end - begin)
                tensors[name] = RawTensor(info, data_start + begin)
        _check_spans(file, spans, data_start)
        return RawSource(file, "safetensors", tensors, metadata, left_out=left_out)
    except BaseException:
        file.close()
        raise


def _read_header(file: FileBytes) -> tuple[dict[str, Any], int]:
    """Return the parsed header and the offset of the data."""
    if file.size < _LENGTH_BYTES:
        raise FormatError(
            f"{file.path}: expected the {_LENGTH_BYTES} bytes of a header's length, got {file.size}; "
            "the file is cut short: download or copy it again"
        )
    length = int.from_bytes(file.read_at(0, _LENGTH_BYTES), "little")
    if length > min(MAX_HEADER_BYTES, file.size - _LENGTH_BYTES):
        raise FormatError(
            f"{file.path}: expected a header of at most {MAX_HEADER_BYTES} bytes within the {file.size} of the file, "
            f"got one of {length}; the file is cut short or damaged: download or copy it again"
        )
    raw = file.read_at(_LENGTH_BYTES, length)
    if not raw.startswith(b"{"):
        raise FormatError(f"{file.path}: expected a header that begins with '{{', got {raw[:8]!r}; the file is damaged")
    return parse_object(file.path, "header", raw, _HEADER_DEPTH), _LENGTH_BYTES + length


def _check_metadata(path: Path, metadata: object) -> Mapping[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path}: {_METADATA}: expected texts by name, got something else; the file is damaged")
    return metadata


def _entry(path: Path, name: str, fields: object) -> tuple[str, tuple[int, ...], int, int]:
    """Check one entry of the header on its own; return its type, its shape, and its first and last byte in the data."""
    check_name(path, name)
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        raise FormatError(
            f"{path}: {name}: expected dtype, shape and data_offsets, got something else; the file is damaged"
        )
    dtype = fields["dtype"]
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        shown = repr(dtype[:20]) if isinstance(dtype, str) else type(dtype).__name__
        raise UnsupportedError(
            f"{path}: {name}: expected one of the types {', '.join(_TAKEN)}, got {shown}; "
            "convert the checkpoint to one of them first"
        )
    if not isinstance(fields["shape"], list):
        raise FormatError(f"{path}: {name}: expected a list of dimensions, got something else; the file is damaged")
    shape = check_shape(path, name, fields["shape"], least=0)
    begin, end = _offsets(path, name, fields["data_offsets"])
    size, rest = divmod(math.prod(shape) * bits, 8)
    if end - begin != size or rest:
        raise FormatError(
            f"{path}: {name}: expected {size} bytes for {dtype} of shape {shape}, got {end - begin}; "
            "the file is damaged"
        )
    return dtype, shape, begin, end


def _offsets(path: Path, name: str, offsets: object) -> tuple[int, int]:
    # type() and not isinstance(): true and false are integers to the latter.
    if isinstance(offsets, list) and len(offsets) == 2:
        begin, end = offsets
        if type(begin) is type(end) is int and 0 <= begin <= end:
            return begin, end
    raise FormatError(
        f"{path}: {name}: expected data_offsets [begin, end], got {str(offsets)[:60]}; the file is damaged"
    )


def _check_spans(file: FileBytes, spans: list[tuple[int, int, str]], data_start: int) -> None:
    """Check that the tensors cover the data exactly: no overlap, no gap, nothing after the last."""
    end = 0
    for begin, end_of_tensor, name in sorted(spans):
        if begin != end:
            fault = "an overlap" if begin < end else "a hole"
            raise FormatError(
                f"{file.path}: {name}: expected its data at byte {end}, got {begin}: {fault}; the file is damaged"
            )
        end = end_of_tensor
    position = data_start + end
    if position < file.size:
        raise FormatError(
            f"{file.path}: expected {exact_bytes(position)} as its header says, got {exact_bytes(file.size)}: "
            f"{file.size - position} bytes follow the last tensor, which the format does not allow; cut them off "
            f"(truncate -s {position}), or download it again"
        )
    if position > file.size:
        raise FormatError(
            f"{file.path}: expected {exact_bytes(position)} as its header says, got {exact_bytes(file.size)}; "
            "the file is cut short: download or copy it again"
        )
