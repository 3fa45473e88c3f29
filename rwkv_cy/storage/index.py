"""The index: offset and checksum of each dataset of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeGuard

from rwkv_cy.errors import FormatError, SpecError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.records import dataclass
from rwkv_cy.storage.jsontext import pack_json
from rwkv_cy.storage.schema import FORMAT_NAME, MATRIX_SHAPE, MAX_DATASETS, TRANSPOSED_SHAPE, DatasetSpec

__all__ = ["MAX_INDEX_BYTES", "Entry", "index_capacity", "pack_index", "unpack_index"]

#: An entry takes about 150 bytes, and up to 400 with a long name and many dimensions.
MAX_INDEX_BYTES = 16 << 20


@dataclass(frozen=True)
class Entry:
    """One dataset in the index.

    Attributes
    ----------
    spec : DatasetSpec
        Path, type and shape.
    offset : int
        Offset of its bytes in the file. They are contiguous and in C order.
    crc32 : int
        CRC-32 (zlib's) of its ``spec.nbytes`` bytes.
    """

    spec: DatasetSpec
    offset: int
    crc32: int


def pack_index(kind: str, entries: Iterable[Entry], capacity: int) -> bytes:
    """Return the index as JSON, padded to `capacity` bytes."""
    return pack_json(_index(kind, entries), "index", capacity)


def index_capacity(kind: str, specs: Sequence[DatasetSpec]) -> int:
    """Return the bytes to reserve for an index of `specs`, whatever their offsets and checksums will be."""
    if len(specs) > MAX_DATASETS:
        raise SpecError(f"tensors: expected at most {MAX_DATASETS}, got {len(specs)}; this is not an RWKV model")
    longest = _index(kind, (Entry(spec, (1 << 63) - 1, (1 << 32) - 1) for spec in specs))
    return len(pack_json(longest, "index", limit=MAX_INDEX_BYTES))


def _index(kind: str, entries: Iterable[Entry]) -> dict[str, Any]:
    return {
        "format": FORMAT_NAME,
        "kind": kind,
        "datasets": [
            {
                "path": entry.spec.path,
                "dtype": entry.spec.dtype,
                "shape": list(entry.spec.shape),
                **{name: list(shape) for name, shape in entry.spec.shape_fields.items()},
                "offset": entry.offset,
                "crc32": entry.crc32,
            }
            for entry in entries
        ],
    }


def unpack_index(raw: bytes, path: Path, first: int, last: int) -> tuple[str, dict[str, Entry]]:
    """Return the kind of the file and its entries by path, in the file's order.

    Parameters
    ----------
    raw : bytes
        The index.
    path : Path
        The file, for messages.
    first, last : int
        Offsets between which all data must be.

    Raises
    ------
    FormatError
        If the index is invalid: a field that is missing or of the wrong type, a duplicate path, an impossible size, a
        dataset that is outside the data or overlaps another.
    """
    index = parse_object(path, "index", raw)
    kind = index.get("kind")
    datasets = index.get("datasets")
    if index.get("format") != FORMAT_NAME or not isinstance(kind, str) or not isinstance(datasets, list):
        raise FormatError(
            f"{path}: index: expected the fields format ({FORMAT_NAME!r}), kind and datasets, got others; "
            "convert or save it again"
        )
    if len(datasets) > MAX_DATASETS:
        raise FormatError(f"{path}: index: expected at most {MAX_DATASETS} datasets, got {len(datasets)}")
    entries: dict[str, Entry] = {}
    for line in datasets:
        entry = _entry(line, path)
        if entry.spec.path in entries:
            raise FormatError(f"{path}: index: expected {entry.spec.path} once, got it twice; convert or save it again")
        entries[entry.spec.path] = entry
    _check_spans(entries, path, first, last)
    return kind, entries


def _entry(line: object, path: Path) -> Entry:
    fields: Mapping[str, object] = line if isinstance(line, dict) else {}
    name, dtype, shape = fields.get("path"), fields.get("dtype"), fields.get("shape")
    offset, crc32 = fields.get("offset"), fields.get("crc32")
    of_transpose = TRANSPOSED_SHAPE in fields
    matrix_shape = fields.get(TRANSPOSED_SHAPE if of_transpose else MATRIX_SHAPE)
    if (
        not isinstance(name, str)
        or not isinstance(dtype, str)
        or not _is_shape(shape)
        or not (matrix_shape is None or _is_shape(matrix_shape))
        or not _is_int(offset)
        or not _is_int(crc32)
    ):
        raise FormatError(
            f"{path}: index: expected path, dtype, shape, offset and crc32 of a dataset, got {str(line)[:80]}; "
            "convert or save it again"
        )
    if of_transpose and MATRIX_SHAPE in fields:
        raise FormatError(
            f"{path}: index: {name[:80]}: expected {MATRIX_SHAPE} or {TRANSPOSED_SHAPE}, got both; "
            "convert or save it again"
        )
    spec = DatasetSpec(name, dtype, tuple(shape), None if matrix_shape is None else tuple(matrix_shape), of_transpose)
    try:
        spec.check()
    except SpecError as error:
        raise FormatError(f"{path}: index: {error}") from error
    return Entry(spec, offset, crc32)


def _is_shape(value: object) -> TypeGuard[list[int]]:
    return type(value) is list and {int}.issuperset(map(type, value))


def _is_int(value: object) -> TypeGuard[int]:
    return type(value) is int  # true and false are integers to isinstance


def _check_spans(entries: Mapping[str, Entry], path: Path, first: int, last: int) -> None:
    """Check that the datasets are between `first` and `last` and do not overlap."""
    end, before = first, "the metadata"
    for entry in sorted(entries.values(), key=attrgetter("offset")):
        if entry.offset < end:
            raise FormatError(
                f"{path}: {entry.spec.path}: expected it behind {before}, which ends at {end}, "
                f"got offset {entry.offset}; convert or save it again"
            )
        end, before = entry.offset + entry.spec.span, entry.spec.path
    if end > last:
        raise FormatError(f"{path}: {before}: expected its end at {last} at most, got {end}; convert or save it again")
