"""The converter: converts tensors of a source to the types of a target, for a file or for memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from rwkv_cy.dtypes import storage_type, to_storage
from rwkv_cy.errors import SpecError
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.files.checksum import crc32
from rwkv_cy.runtime import get_num_threads
from rwkv_cy.tensors.arena import Arena
from rwkv_cy.tensors.codecs import BLOCK_SIZE, GroupedCodec, PlannedCodec, rows_at_once
from rwkv_cy.tensors.codecs.base import Array
from rwkv_cy.tensors.feedback import Inputs
from rwkv_cy.tensors.parallel import Stop, run_jobs
from rwkv_cy.tensors.policy import Target
from rwkv_cy.tensors.reading import decode_rows, number_type, read_numbers, read_rows
from rwkv_cy.tensors.rounding import Rounding, measure_rounding
from rwkv_cy.tensors.statistics import NonFinite, count_nonfinite
from rwkv_cy.tensors.tensor import Parameter, ParameterSource, TensorInfo
from rwkv_cy.tensors.transposing import TransposedReader, strip_columns, transposed_columns

__all__ = ["Converter", "FileSink", "Progress", "describe_overflow", "number_warnings", "read_parameters"]

#: Called with the bytes written so far and the bytes of all tensors in the target.
Progress = Callable[[int, int], None]

#: Tensors up to so many bytes are copied and checked in one pass. In larger ones another thread may do either.
_SMALL_BYTES = 1 << 20
#: Bytes of a piece that is copied, and numbers of a piece that is converted.
_PIECE_BYTES, _PIECE_NUMBERS = 8 << 20, 1 << 20


class Converter:
    """Fills parts of the arrays of a target with converted numbers of a source.

    Several threads may fill parts of different arrays, and independent parts of one array, at once.

    Parameters
    ----------
    source : ParameterSource
    count_copied : bool, default True
        Whether to count NaN and Inf also in numbers that are copied without conversion.
    measure : bool, default False
        Whether to measure the error of numbers that are rounded or quantized.
    inputs : mapping of str to Inputs, optional
        What matrices to quantize are multiplied with, by name.

    Attributes
    ----------
    nonfinite : dict of str to NonFinite
        NaN and Inf counts of the source, for each examined tensor that has any.
    overflowed : dict of str to int
        Finite numbers of the source that became infinite in a narrower type, for each tensor that has any.
    rounding : dict of str to Rounding
        Errors of the tensors that were rounded to a narrower type or quantized, if they are measured.
    stop : Stop
        Ends the conversion of whole matrices that compress as one, and the verification of checksums.
    """

    def __init__(
        self,
        source: ParameterSource,
        *,
        count_copied: bool = True,
        measure: bool = False,
        inputs: Mapping[str, Inputs] | None = None,
    ) -> None:
        self.nonfinite: dict[str, NonFinite] = {}
        self.overflowed: dict[str, int] = {}
        self.rounding: dict[str, Rounding] = {}
        self.stop = Stop()
        self._measure = measure
        self._inputs = inputs or {}
        self._source = source
        self._count_copied = count_copied
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self._readers = threading.local()

    def fill(self, target: Target, result: Array, start: int, num_threads: int = 1) -> None:
        """Fill `result` (1-D) with elements of the target's array from element `start` on.

        If the codec encodes groups of rows, the part must consist of whole groups. If it encodes from the first row to
        the last, parts must be requested in that order.

        Raises
        ------
        FormatError, StorageError
            As raised by the source's ``read_into``.
        NumericalError
            If a matrix to quantize has weights that are NaN, infinite or too large.
        """
        info, codec = self._source.info(target.info.name), target.info.codec
        if info.dtype == target.info.dtype and codec.matrices_only:
            self._source.read_into(info.name, result, start)
        elif isinstance(codec, PlannedCodec):
            self._stream(codec, info, target, start).fill(result)
            if start + result.size == target.info.nbytes:
                del self._streams[info.name]
        elif isinstance(codec, GroupedCodec):
            self._encode(codec, info, target.info, result, start, num_threads)
        else:
            for first in range(0, result.size, BLOCK_SIZE):
                self._convert(info, target.info, result[first : first + BLOCK_SIZE], start + first)

    def _stream(self, codec: PlannedCodec, info: TensorInfo, target: Target, start: int) -> _Stream:
        if start == 0 and target.plan is not None:
            rows = partial(self._rows, info, codec.numbers)
            where = f"{self._source.path}: {info.name}"
            self._streams[info.name] = _Stream(codec.encode(rows, info.shape, target.plan, where))
        stream = self._streams.get(info.name)
        if stream is None or stream.position != start:
            raise SpecError(f"{info.name}: expected requests for its bytes in ascending order, got one from {start}")
        return stream

    def _encode(
        self, codec: GroupedCodec, info: TensorInfo, target: TensorInfo, result: Array, start: int, num_threads: int
    ) -> None:
        """Fill `result` with whole groups of encoded rows."""
        rows, columns = target.encoded_shape
        unit, group = codec.group_size(target.encoded_shape), codec.row_group
        begin, end = start // unit * group, min((start + result.size) // unit * group, rows)
        step = rows_at_once(columns, group, min(BLOCK_SIZE, (end - begin) * columns // num_threads))
        turned = info.transposed != target.transposed and not info.codec.matrices_only

        def encode(first: int, last: int, strip: tuple[Array, int] | None) -> None:
            count = min(step, last - first)
            if strip is None:
                block = read_rows(self._source, info, first, count, transposed=target.transposed)
            else:
                block = transposed_columns(*strip, first, count)
            numbers = self._narrow(info, block, codec.numbers, measure=False)
            inputs = self._inputs.get(info.name)
            encoded = codec.encode_rows(numbers, f"{self._source.path}: {info.name}", inputs).reshape(-1)
            if self._measure:
                decoded = decode_rows(codec, encoded, (count, columns))
                self.add_rounding(info.name, measure_rounding(block, number_type(info), decoded, codec.numbers))
            offset = first // group * unit - start
            result[offset : offset + encoded.size] = encoded

        while begin < end:
            strip, last = None, end
            if turned:  # one read of a strip, instead of one of each of its rows for every step
                strip = self._transposed_reader().strip(info, begin, group)
                columns_end = strip[1] + strip[0].shape[1]
                if columns_end < end:
                    last = columns_end // group * group
            run_jobs([partial(encode, first, last, strip) for first in range(begin, last, step)], num_threads)
            begin = last

    def _rows(self, info: TensorInfo, dtype: str, first: int, count: int) -> Array:
        """Return rows of a matrix as numbers of a floating point type."""
        self.stop()
        return self._narrow(info, read_rows(self._source, info, first, count), dtype)

    def _convert(self, info: TensorInfo, target: TensorInfo, result: Array, start: int) -> None:
        """Fill `result` with numbers of a floating point type."""
        own = number_type(info)
        if info.codec.matrices_only:
            block = read_numbers(self._source, info, start, result.size, transposed=target.transposed)
        else:
            block = result if own == target.dtype else read_buffer(result.size, info.codec.array_dtype)
            if info.transposed == target.transposed:
                self._source.read_into(info.name, block, start)
            else:
                self._transposed_reader().read_into(info, block, start)
        copied = block is result
        if copied and not self._count_copied:
            return
        if copied:
            self._count(info, block)
        else:
            result[:] = self._narrow(info, block, target.dtype)

    def _narrow(self, info: TensorInfo, block: Array, dtype: str, *, measure: bool = True) -> Array:
        """Convert numbers of the source to another type, count overflows, and measure the error."""
        own = number_type(info)
        if own == "f32" and dtype in ("f16", "bf16"):
            return self._narrow_f32(info, block, dtype, measure=measure)
        infinite = self._count(info, block)
        result = to_storage(block, own, dtype)
        if dtype not in storage_type(own).lossless_in:
            overflowed = count_nonfinite(result, dtype).inf - infinite
            if overflowed:
                with self._lock:
                    self.overflowed[info.name] = self.overflowed.get(info.name, 0) + overflowed
            if self._measure and measure:
                self.add_rounding(info.name, measure_rounding(block, own, result, dtype))
        return result

    def _narrow_f32(self, info: TensorInfo, block: Array, dtype: str, *, measure: bool) -> Array:
        """Do what :meth:`_narrow` does in one pass, for the types that most conversions round."""
        from rwkv_cy.kernels.narrow import narrow_f32

        result, nan, infinite, overflowed, *error = narrow_f32(block.reshape(-1), dtype)
        self._add_nonfinite(info, NonFinite(nan=nan, inf=infinite))
        if overflowed:
            with self._lock:
                self.overflowed[info.name] = self.overflowed.get(info.name, 0) + overflowed
        if self._measure and measure:
            self.add_rounding(info.name, Rounding(*error))
        return result.reshape(block.shape)

    def add_rounding(self, name: str, error: Rounding) -> None:
        """Add the measured error of a part of a tensor."""
        with self._lock:
            self.rounding[name] = self.rounding.get(name, Rounding()) + error

    def _transposed_reader(self) -> TransposedReader:
        """Return the reader that belongs to this thread."""
        reader: TransposedReader | None = getattr(self._readers, "reader", None)
        if reader is None:
            reader = self._readers.reader = TransposedReader(self._source)
        return reader

    def _count(self, info: TensorInfo, block: Array) -> int:
        """Count NaN and Inf in numbers of the source, and return how many are infinite."""
        counts = count_nonfinite(block, number_type(info))
        self._add_nonfinite(info, counts)
        return counts.inf

    def _add_nonfinite(self, info: TensorInfo, counts: NonFinite) -> None:
        if counts:
            with self._lock:
                self.nonfinite[info.name] = self.nonfinite.get(info.name, NonFinite()) + counts


class _Stream:
    """An array that is encoded from its first element to its last, delivered in parts of any size."""

    def __init__(self, parts: Iterator[Array]) -> None:
        self.position = 0
        self._parts = parts
        self._rest: Array = np.empty(0, np.uint8)

    def fill(self, result: Array) -> None:
        done = 0
        while done < result.size:
            if self._rest.size == 0:
                self._rest = next(self._parts)
            part = self._rest[: result.size - done]
            result[done : done + part.size] = part
            self._rest = self._rest[part.size :]
            done += part.size
        self.position += done


def number_warnings(
    dtypes: Mapping[str, str], nonfinite: Mapping[str, NonFinite], overflowed: Mapping[str, int]
) -> Iterator[str]:
    """Yield warnings about numbers that are not finite, one sentence each.

    Parameters
    ----------
    dtypes : mapping of str to str
        Type of each tensor in the target.
    nonfinite, overflowed : mapping
        As a :class:`Converter` counts them.
    """
    for name, counts in nonfinite.items():
        yield f"{name}: {counts.nan} NaN and {counts.inf} infinite numbers in the source, copied unchanged"
    for name, count in overflowed.items():
        yield describe_overflow(name, count, dtypes[name])


def describe_overflow(name: str, count: int, dtype: str) -> str:
    """Return the warning about numbers that became infinite."""
    return f"{name}: {count} too large for {dtype}, now infinite; convert to a type with more range"


class FileSink:
    """Converted arrays for a file that is written from its first byte to its last.

    Parameters
    ----------
    converter : Converter
    targets : mapping of str to Target
        By name.
    progress : callable, optional
    """

    def __init__(self, converter: Converter, targets: Mapping[str, Target], progress: Progress | None = None) -> None:
        self._converter = converter
        self._targets = targets
        self._progress = progress
        self._total = sum(target.info.nbytes for target in targets.values())
        self._done = 0
        #: Of the last two blocks.
        self._memory = [np.empty(0, np.uint8)] * 2

    def read(self, info: TensorInfo, start: int, count: int) -> Array:
        """Return `count` elements of the array of a target from element `start` on, 1-D.

        The array is valid until the call after the next, which reuses its memory, to avoid the page faults of new
        memory.
        Requests must be valid for :meth:`Converter.fill`, and in the order of the file.

        Raises
        ------
        RWKVError
            As raised by :meth:`Converter.fill`.
        """
        dtype = info.codec.array_dtype
        nbytes = count * dtype.itemsize
        self._memory.reverse()
        if self._memory[0].nbytes < nbytes:
            self._memory[0] = read_buffer(nbytes, np.uint8)
        result = self._memory[0][:nbytes].view(dtype)
        self._converter.fill(self._targets[info.name], result, start, get_num_threads())
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)
        return result


def read_parameters(
    converter: Converter,
    source: ParameterSource,
    targets: Mapping[str, Target],
    num_threads: int,
    progress: Progress | None = None,
) -> dict[str, Parameter]:
    """Read and convert tensors into memory, and verify their checksums.

    Parameters
    ----------
    converter : Converter
        A converter for `source`.
    source : ParameterSource
    targets : mapping of str to Target
        By name.
    num_threads : int
        Most threads to use; small models use fewer.
    progress : callable, optional
        Called with the bytes done and the bytes of all tensors in memory, by any of the threads, one at a time.

    Returns
    -------
    dict of str to Parameter
        By name. The arrays are adjacent in one :class:`~rwkv_cy.tensors.arena.Arena`.

    Raises
    ------
    RWKVError
        As raised by :meth:`Converter.fill`.
    NotEnoughMemoryError
        If the system cannot provide that much memory.
    """
    size = sum(Arena.padded(target.info.nbytes) for target in targets.values())
    arena = Arena(size)
    counter = _Counter(progress, sum(target.info.nbytes for target in targets.values()))
    parameters = {}
    jobs: list[Callable[[], object]] = []
    for name, target in targets.items():
        info = target.info
        array = arena.take(info.array_shape, info.codec.array_dtype)
        flat = array.reshape(-1)
        if flat.nbytes <= _SMALL_BYTES and info == source.info(name) and source.checksum(name) is not None:
            jobs.append(partial(_fill_and_check, converter, source, target, flat, counter))
        else:
            jobs.append(partial(source.check_bytes, name, converter.stop))
            for start, count in _pieces(source.info(name), info):
                jobs.append(partial(_fill, converter, target, flat[start : start + count], start, counter))
        parameters[name] = info.parameter(array)
    run_jobs(jobs, min(num_threads, 1 + size // _PIECE_BYTES), converter.stop)
    return parameters


class _Counter:
    """Adds up bytes of several threads for a progress function."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += count
                self._progress(self._done, self._total)


def _fill(converter: Converter, target: Target, block: Array, start: int, counter: _Counter) -> None:
    converter.fill(target, block, start)
    counter.add(block.nbytes)


def _fill_and_check(
    converter: Converter, source: ParameterSource, target: Target, block: Array, counter: _Counter
) -> None:
    """Copy a whole tensor, and verify its checksum without reading it again."""
    name = target.info.name
    _fill(converter, target, block, 0, counter)
    if crc32(block.view(np.uint8).data) != source.checksum(name):
        source.check_bytes(name)  # raises an error, unless the file has been completed since
        converter.fill(target, block, 0)


def _pieces(info: TensorInfo, target: TensorInfo) -> Iterator[tuple[int, int]]:
    """Yield independent parts of the target's array: first element and number of elements."""
    codec, itemsize = target.codec, target.codec.array_dtype.itemsize
    size = target.nbytes // itemsize
    if info.dtype == target.dtype and info.transposed == target.transposed:
        step = _PIECE_BYTES // itemsize
    elif isinstance(codec, PlannedCodec):
        step = size
    elif codec.matrices_only or info.codec.matrices_only:
        group = max(codec.row_group, info.codec.row_group)
        columns = target.encoded_shape[1]
        groups = rows_at_once(columns, group, _PIECE_NUMBERS) // group
        step = groups * (codec.group_size(target.encoded_shape) if codec.matrices_only else group * columns)
    elif info.transposed != target.transposed:
        step = strip_columns(info) * info.array_shape[0]
    else:
        step = _PIECE_NUMBERS
    for start in range(0, size, step):
        yield start, min(step, size - start)
