"""The GGUF container: metadata by key, and where each tensor is.

Source: github.com/ggml-org/ggml, docs/gguf.md. Every rule of that page is checked, and that tensors do not overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_TENSORS, FileBytes, add_checked_entry, check_shape
from rwkv_cy.formats.ggml.source import describe
from rwkv_cy.formats.gguf.header import Header, Value
from rwkv_cy.formats.gguf.types import TENSOR_TYPES, UNREAD_TYPES
from rwkv_cy.formats.raw import RawTensor
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.tensor import TensorInfo

__all__ = ["ALIGNMENT", "Container", "read_container", "read_values"]

#: Of the tensors' data, where the metadata does not give another one.
ALIGNMENT = 32

_ALIGNMENT_KEY = "general.alignment"
_LARGEST_ALIGNMENT = 1 << 16
_MAX_DIMENSIONS = 4
#: Files have about 40 values; those of other models a few hundred.
_MAX_VALUES = 10_000


@dataclass(frozen=True)
class Container:
    """What stands in front of a file's tensors.

    Attributes
    ----------
    values : mapping of str to Value
        The metadata, by key.
    tensors : mapping of str to RawTensor
        By name, in the file's order; shapes as ggml names them reversed, so that rows come last.
    """

    values: Mapping[str, Value]
    tensors: Mapping[str, RawTensor]


def read_container(file: FileBytes) -> Container:
    """Read metadata and descriptions of tensors; arrays are passed by, and tensors are not read.

    Raises
    ------
    FormatError
        If the file violates the format.
    UnsupportedError
        If it is of another version or byte order, or has a tensor of a type that is not read.
    StorageError
        If the operating system reports an error.
    """
    header, tensor_count, values = _read_values(file)
    alignment = _alignment(file, values)
    described: dict[str, tuple[TensorInfo, int]] = {}
    for _ in range(tensor_count):
        info, offset = _tensor(file, header, alignment)
        add_checked_entry(file.path, described, info.name, (info, offset))
    start = -(-header.position // alignment) * alignment
    tensors = {name: RawTensor(info, start + offset) for name, (info, offset) in described.items()}
    _check_spans(file, tensors)
    return Container(values, tensors)


def read_values(file: FileBytes) -> Mapping[str, Value]:
    """Read the metadata alone, whatever tensors there are; errors are those of :func:`read_container`."""
    return _read_values(file)[2]


def _read_values(file: FileBytes) -> tuple[Header, int, dict[str, Value]]:
    """Return the cursor after the metadata, the number of tensors, and the metadata."""
    header = Header(file)
    tensor_count, value_count = header.counts()
    _check_count(file, "tensors", tensor_count, MAX_TENSORS)
    _check_count(file, "values of metadata", value_count, _MAX_VALUES)
    values: dict[str, Value] = {}
    for _ in range(value_count):
        key = header.name("a value")
        if key in values:
            raise FormatError(f"{file.path}: {key}: expected one value of that key, got two; the file is damaged")
        values[key] = header.value(key)
    return header, tensor_count, values


def _check_count(file: FileBytes, what: str, count: int, most: int) -> None:
    if count > most:
        raise FormatError(f"{file.path}: expected at most {most} {what}, got {count}; the file is damaged")


def _alignment(file: FileBytes, values: Mapping[str, Value]) -> int:
    alignment = values.get(_ALIGNMENT_KEY, ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise FormatError(
            f"{file.path}: {_ALIGNMENT_KEY}: expected a power of two up to {_LARGEST_ALIGNMENT}, "
            f"got {str(alignment)[:40]}; the file is damaged"
        )
    return alignment


def _tensor(file: FileBytes, header: Header, alignment: int) -> tuple[TensorInfo, int]:
    """Read one description, and the offset from the first byte of the data."""
    name = header.name("a tensor")
    dimensions = header.integer(4)
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise FormatError(
            f"{file.path}: {name}: expected 1 to {_MAX_DIMENSIONS} dimensions, got {dimensions}; the file is damaged"
        )
    # The length of a row comes first in the file, and last in the shape.
    lengths, kind, offset = header.description(dimensions)
    shape = check_shape(file.path, name, lengths[::-1])
    info = describe(file.path, name, shape, _type_name(file, name, kind))
    if offset % alignment:
        raise FormatError(
            f"{file.path}: {name}: expected an offset that is a multiple of {alignment}, got {offset}; "
            "the file is damaged"
        )
    return info, offset


def _type_name(file: FileBytes, name: str, number: int) -> str:
    if number not in TENSOR_TYPES:
        what = UNREAD_TYPES.get(number, f"type {number}, which is damage, or newer than this reader")
        known = ", ".join(known.upper() for known in TENSOR_TYPES.values())
        raise UnsupportedError(
            f"{file.path}: {name}: expected one of the types {known}, got {what}; "
            "quantize the original model again with llama-quantize, to one of them"
        )
    return TENSOR_TYPES[number]


def _check_spans(file: FileBytes, tensors: Mapping[str, RawTensor]) -> None:
    """Check that no two tensors share bytes."""
    end, before = 0, ""
    for tensor in sorted(tensors.values(), key=attrgetter("offset")):
        if tensor.offset < end:
            raise FormatError(
                f"{file.path}: {tensor.info.name}: expected its data after that of {before}, which ends at byte {end}, "
                f"got byte {tensor.offset}: an overlap; the file is damaged"
            )
        end, before = tensor.offset + tensor.info.source_nbytes, tensor.info.name
