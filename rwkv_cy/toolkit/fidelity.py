"""Fidelity: whether a converted file has what its source has, within the precision of its types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import version_label
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.dtypes import STORAGE_TYPES, to_storage, widen
from rwkv_cy.errors import FormatError, NumericalError, RWKVError
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.codecs import BLOCK_SIZE, GroupedCodec, rows_at_once
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.tensors.reading import decode_rows, number_type
from rwkv_cy.tensors.rounding import Rounding, measure_rounding
from rwkv_cy.tensors.tensor import TensorInfo
from rwkv_cy.tensors.transposing import TransposedReader
from rwkv_cy.toolkit.diff import config_differences, describe_values

__all__ = ["SourceCheck", "check_against"]

Array = npt.NDArray[Any]
#: ``bound(start, numbers)`` returns the largest differences from these numbers of the source, from an element on.
Bound = Callable[[int, Array], Array]
Agreement = Literal["exact", "converted", "within"]

#: Relative precision of the floating point types.
_PRECISION = {"f64": 2.0**-52, "f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
#: Formulas of other layouts lose a few units in the last place, and half of the least float16, times 64 where matrices
#: are divided by 2 after every so many layers.
_UNITS, _LEAST = 4, {"f16": 2.0**-18}
#: A problem names so many tensors, and counts the rest.
_NAMED = 5
#: Largest relative error of a matrix that was quantized with a calibration; that of another matrix is above 1.
_CALIBRATED = 0.3
#: Scales of blocks are rounded too.
_SLACK = 1.25


@dataclass(frozen=True)
class SourceCheck:
    """What the comparison of a file with its source found.

    Attributes
    ----------
    path : Path
        The source.
    exact : int
        Tensors with exactly the numbers of the source.
    converted : int
        Tensors with what a conversion gives: numbers of the source rounded or quantized again, bit by bit.
    within : int
        Tensors that another program quantized or computed, within the precision of their type.
    problems : tuple of str
        What differs, one sentence for each tensor.
    """

    path: Path
    exact: int
    converted: int
    within: int
    problems: tuple[str, ...]


class _MismatchError(Exception):
    """A tensor differs from that of the source; the message says where."""


def check_against(file: Checkpoint, source: Checkpoint, advance: Callable[[int], None]) -> SourceCheck:
    """Compare every tensor of `file` with that of `source`, from which it was converted or exported.

    Parameters
    ----------
    file, source : Checkpoint
    advance : callable
        Called with the bytes of `file` whose numbers have just been compared.

    Raises
    ------
    FormatError, StorageError
        If a file is damaged, or cannot be read.
    """
    other = _another_model(file, source)
    if other is not None:
        return SourceCheck(source.path, 0, 0, 0, (other,))
    counts: dict[Agreement, int] = {"exact": 0, "converted": 0, "within": 0}
    problems = list(_other_problems(file, source))
    comparer = _Comparer(file, source)
    for name in file.source.names():
        if name in source.shapes and (source.shapes[name] == file.shapes[name] or _copies(file, source, name)):
            try:
                counts[comparer.compare(name)] += 1
            except _MismatchError as mismatch:
                problems.append(f"{file.path}: {name}: {mismatch}")
            except FormatError as error:
                problems.append(str(error))
        advance(file.source.info(name).source_nbytes)
    return SourceCheck(source.path, counts["exact"], counts["converted"], counts["within"], tuple(problems))


def _another_model(file: Checkpoint, source: Checkpoint) -> str | None:
    """Return a sentence if the file is so different from the source that their tensors cannot be compared."""
    common = sum(file.shapes.get(name) == shape for name, shape in source.shapes.items())
    if 2 * common >= min(len(file.shapes), len(source.shapes)):
        return None
    found, expected = _kind(file), _kind(source)
    difference = "tensors of other names and shapes" if found == expected else f"{found} instead of {expected}"
    return f"{file.path}: expected a file made from {source.path}, got another model: {difference}"


def _kind(checkpoint: Checkpoint) -> str:
    """Return version and size in words."""
    label = version_label(checkpoint.shapes) or "an unknown version"
    try:
        config = checkpoint.config
    except RWKVError:
        return label
    return f"{label} of {config.num_layers} layers and d_model {config.d_model}"


def _other_problems(file: Checkpoint, source: Checkpoint) -> Iterator[str]:
    """Yield what differs beside the numbers: names, shapes, config."""
    missing = [name for name in source.shapes if name not in file.shapes and not _unused(source, name)]
    if missing:
        yield f"{file.path}: expected the tensors of {source.path}, {_listed(missing)} missing"
    surplus = [name for name in file.shapes if name not in source.shapes]
    if surplus:
        yield f"{file.path}: expected tensors of {source.path}, which does not have {_listed(surplus)}"
    other = [name for name, shape in source.shapes.items() if file.shapes.get(name, shape) != shape]
    reshaped = [
        f"{name} {file.shapes[name]} instead of {source.shapes[name]}"
        for name in other
        if not _copies(file, source, name)
    ]
    if reshaped:
        yield f"{file.path}: expected the shapes of {source.path}, got {_listed(reshaped)}"
    try:
        differences = config_differences(file.config, source.config)
    except RWKVError:
        return  # verification reports it; numbers are compared anyway
    if len(reshaped) < len(other):  # numbers of a head are there for each of its channels, as in another version
        differences.pop("architecture", None)
    for name, values in differences.items():
        found, expected = describe_values(*values)
        yield f"{file.path}: config {name}: expected {expected}, as in {source.path}, got {found}"


def _copies(file: Checkpoint, source: Checkpoint, name: str) -> int:
    """Return how many columns stand for each number of a vector of the source; 0 where that is not so."""
    shape, found = source.shapes[name], file.shapes[name]
    return found[1] if len(shape) == 1 and len(found) == 2 and found[0] == shape[0] else 0


def _listed(items: list[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _unused(source: Checkpoint, name: str) -> bool:
    """Tell whether a model computes the same without that tensor."""
    try:
        specs: dict[str, ParameterSpec] = {spec.name: spec for spec in source.specs}
    except RWKVError:
        return False
    spec = specs.get(name)
    return spec is not None and spec.optional and spec.kind != "state"


class _Comparer:
    """Compares tensors of two checkpoints block by block."""

    def __init__(self, file: Checkpoint, source: Checkpoint) -> None:
        self._file, self._source = file, source
        self._calibrated = file.header is not None and "calibration" in file.header.source
        self._plain = PlainSource(file.source)

    @cached_property
    def _expected(self) -> PlainSource:
        return PlainSource(self._source.source)

    @cached_property
    def _turned(self) -> TransposedReader:
        return TransposedReader(self._expected)

    def compare(self, name: str) -> Agreement:
        """Return how the tensor agrees; _MismatchError if it does not."""
        info = self._file.source.info(name)
        source = self._file.source
        parts = source.recipe(name).parts if isinstance(source, TranslatedSource) else ()
        if info.source_dtype in BLOCK_TYPES:
            # Where elements change their order, a block is spread over the tensor.
            size = BLOCK_SIZE if any(part.reorders for part in parts) else BLOCK_TYPES[info.source_dtype].size
            return self._within(info, _block_bound(info.source_dtype, size))
        if info.source_dtype in _PRECISION and any(part.computes for part in parts):
            return self._within(info, self._computed_bound(info))
        if info.source_dtype in _PRECISION and info.decoded:
            return self._within(info, lambda start, numbers: _PRECISION[info.source_dtype] * np.abs(numbers))
        if isinstance(info.codec, GroupedCodec):
            requantized = self._source.source.info(name).dtype != info.dtype
            if self._calibrated and info.codec.searches and requantized:
                return self._near(info)
            return self._quantized(info, info.codec)
        return self._rounded(info)

    def _blocks(self, info: TensorInfo, step: int) -> Iterator[tuple[int, Array, Array]]:
        """Yield first element, numbers of the file, and numbers of the source in the type that those have."""
        kind, own = number_type(info), self._expected.info(info.name).dtype
        copies = _copies(self._file, self._source, info.name) or 1
        for start in range(0, info.size, step):
            count = min(step, info.size - start)
            found = read_buffer(count, STORAGE_TYPES[kind].array_dtype)
            self._plain.read_into(info.name, found, start)
            first, skipped = divmod(start, copies)
            expected = read_buffer(-(-(skipped + count) // copies), STORAGE_TYPES[own].array_dtype)
            self._expected.read_into(info.name, expected, first)
            if copies > 1:
                expected = expected.repeat(copies)[skipped : skipped + count]
            yield start, found, to_storage(expected, own, kind)

    def _rounded(self, info: TensorInfo) -> Agreement:
        """Compare numbers that must be the source's, rounded to their type."""
        kind, own = number_type(info), self._expected.info(info.name).dtype
        step = BLOCK_SIZE
        if info.codec.matrices_only:
            step = min(rows_at_once(info.shape[1], info.codec.row_group) * info.shape[1], info.size)
        for start, found, expected in self._blocks(info, step):
            self._same(info, start, found, expected, kind)
        return "exact" if kind in STORAGE_TYPES[own].lossless_in else "converted"

    def _quantized(self, info: TensorInfo, codec: GroupedCodec) -> Agreement:
        """Quantize the source again, and compare the bytes."""
        original = self._source.source.info(info.name)
        size, columns = info.encoded_shape
        rows = rows_at_once(columns, codec.row_group)
        unit = codec.group_size(info.encoded_shape)
        copied = original.dtype == info.dtype
        for first in range(0, size, rows):
            count = min(rows, size - first)
            groups = -(-count // codec.row_group)
            found = read_buffer(groups * unit, codec.array_dtype)
            start = first // codec.row_group * unit
            self._file.source.read_into(info.name, found, start)
            if copied:
                expected = np.empty_like(found)
                self._source.source.read_into(info.name, expected, start)
            else:
                expected = self._quantize(info, codec, first, count)
            if not np.array_equal(found, expected):
                one, other = (decode_rows(codec, array, (count, columns)).reshape(-1) for array in (found, expected))
                self._same(info, first * columns, one, other, codec.numbers, transposed=info.transposed)
                raise _MismatchError(f"expected the bytes that {codec.name} gives for {self._source.path}, got others")
        return "exact" if copied else "converted"

    def _near(self, info: TensorInfo) -> Agreement:
        """Compare a matrix whose scales were chosen for a text, which is not known here."""
        total = Rounding()
        step = min(rows_at_once(info.shape[1], info.codec.row_group) * info.shape[1], info.size)
        for _, found, expected in self._blocks(info, step):
            total += measure_rounding(expected, info.codec.numbers, found, info.codec.numbers)
        if not total.relative <= _CALIBRATED:
            raise _MismatchError(
                f"expected the numbers of {self._source.path} with a relative error of at most {_CALIBRATED:.0%}, the "
                f"most that a calibrated {info.dtype} may have, got {total.relative:.0%}"
            )
        return "within"

    def _quantize(self, info: TensorInfo, codec: GroupedCodec, first: int, count: int) -> Array:
        own, columns = self._expected.info(info.name), info.encoded_shape[1]
        numbers = read_buffer(count * columns, own.codec.array_dtype)
        if info.transposed:
            self._turned.read_into(own, numbers, first * columns)
        else:
            self._expected.read_into(info.name, numbers, first * columns)
        rows = to_storage(numbers, own.dtype, codec.numbers).reshape(count, columns)
        try:
            return codec.encode_rows(rows, f"{self._source.path}: {info.name}").reshape(-1)
        except NumericalError as error:
            raise _MismatchError(f"expected what {codec.name} gives, but {error}") from error

    def _same(
        self, info: TensorInfo, start: int, found: Array, expected: Array, kind: str, *, transposed: bool = False
    ) -> None:
        """Raise _MismatchError unless two arrays have the same bits, or NaN where they do not.

        They are numbers of the tensor from number `start` on, or of its transpose.
        """
        bits = f"u{found.itemsize}"
        different = found.view(bits) != expected.view(bits)
        if not different.any():
            return
        one, other = widen(found, kind, "f64"), widen(expected, kind, "f64")
        different &= ~(np.isnan(one) & np.isnan(other))
        self._report(info, start, one, other, different, f"in {info.dtype}", transposed=transposed)

    def _computed_bound(self, info: TensorInfo) -> Bound:
        """Return how far the file's rounding of what numbers are computed from can move them."""
        source, kind = self._file.source, number_type(info)
        precision = _UNITS * _PRECISION[info.source_dtype]

        def bound(start: int, numbers: Array) -> Array:
            found, moved = (np.empty(numbers.size, STORAGE_TYPES[kind].array_dtype) for _ in range(2))
            source.read_into(info.name, found, start)
            if isinstance(source, TranslatedSource):
                source.read_scaled(info.name, moved, start, 1 - precision)
            one, other = widen(found, kind, "f64"), widen(moved, kind, "f64")
            result: Array = 2 * np.abs(one - other) + _UNITS * _PRECISION[kind] * np.abs(numbers)
            return result + _LEAST.get(info.source_dtype, 0.0)

        return bound

    def _within(self, info: TensorInfo, bound: Bound) -> Agreement:
        """Compare numbers that another program quantized or computed."""
        # BLOCK_SIZE is a whole number of blocks of every type.
        for start, found, expected in self._blocks(info, BLOCK_SIZE):
            one, other = (widen(array, number_type(info), "f64") for array in (found, expected))
            with np.errstate(all="ignore"):
                same = (np.abs(one - other) <= bound(start, other)) | (one == other) | (np.isnan(one) & np.isnan(other))
            self._report(info, start, one, other, ~same, f"within the precision of {info.source_dtype}")
        return "within"

    def _report(
        self,
        info: TensorInfo,
        start: int,
        found: Array,
        expected: Array,
        different: Array,
        precision: str,
        *,
        transposed: bool = False,
    ) -> None:
        if not different.any():
            return
        at = int(different.argmax())
        step = -1 if transposed else 1
        indices = np.unravel_index(start + at, info.shape[::step])
        place = ", ".join(str(int(index)) for index in indices[::step])
        count = int(np.count_nonzero(different))
        others = f"; {count - 1} more in the same block differ" if count > 1 else ""
        raise _MismatchError(
            f"expected {expected[at]:.9g} at ({place}), as {self._source.path} has it, {precision}, "
            f"got {found[at]:.9g}{others}"
        )


def _block_bound(dtype: str, size: int) -> Bound:
    """Return the largest differences of numbers that are quantized to a block type of ggml from the exact ones.

    With b bits, the levels of a block are at most 2^(2-b) of its largest number apart, symmetric or not.
    """
    bits = int(re.sub(r"\D", "", dtype)[0])  # q4_k, iq4_nl

    def bound(start: int, numbers: Array) -> Array:
        starts = np.arange(0, numbers.size, size)
        largest = np.maximum.reduceat(np.abs(numbers), starts)
        return np.repeat(_SLACK * 2.0 ** (1 - bits) * largest, size)[: numbers.size]

    return bound
