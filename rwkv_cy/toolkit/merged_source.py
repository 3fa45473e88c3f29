"""A model and an adapter, read as one merged model: block by block, in float64, rounded once."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import storage_type, to_storage, widen
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.records import replace
from rwkv_cy.tensors.codecs import BLOCK_SIZE
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.tensors.tensor import Advance, ParameterSource, TensorInfo, check_buffer
from rwkv_cy.toolkit.adapters import AdapterFile, AdapterTensor, Change, Floats, Update

__all__ = ["MergedSource"]


class MergedSource:
    """A :class:`~rwkv_cy.tensors.tensor.ParameterSource` of a model with an adapter's changes.

    Parameters without a change are those of the base, quantized ones too. Several threads may read at once.

    Parameters
    ----------
    base : ParameterSource
    adapters : mapping of str to ParameterSource
        The adapter's files, by what they are.
    changes : mapping of str to Change
        By canonical name; of parameters that the base has, or that are whole in the adapter.
    dtypes : mapping of str to str
        Type in which each changed parameter is delivered.

    Notes
    -----
    The files stay open; who opened them closes them.
    """

    def __init__(
        self,
        base: ParameterSource,
        adapters: Mapping[AdapterFile, ParameterSource],
        changes: Mapping[str, Change],
        dtypes: Mapping[str, str],
    ) -> None:
        self.path = base.path
        self.format = base.format
        self.metadata: Mapping[str, str] = base.metadata
        self.left_out: Mapping[str, str] = base.left_out
        self._base, self._adapters, self._changes = base, adapters, changes
        self._plain = PlainSource(base)
        self._numbers = {file: PlainSource(adapter) for file, adapter in adapters.items()}
        self._own = set(base.names())
        self._infos = {name: self._describe(name, dtype) for name, dtype in dtypes.items()}
        self._lock = threading.RLock()  # of the plain sources, and of the last update
        self._last: tuple[str, Update] | None = None

    def _describe(self, name: str, dtype: str) -> TensorInfo:
        """Describe a changed parameter."""
        change = self._changes[name]
        if name in self._own:
            info = self._base.info(name)
            # Quantized numbers stay what was quantized once; others count as their own type.
            original = info.source_dtype if info.decoded or info.codec.requantizes else dtype
        else:
            info = self._source(change.tensors[0]).info(change.tensors[0].name)
            original = dtype
        return replace(info, name=name, dtype=dtype, source_dtype=original, transposed=False, encoded_nbytes=0)

    def _source(self, tensor: AdapterTensor) -> ParameterSource:
        return self._adapters[tensor.file]

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The files of the base, then those of the adapter."""
        return tuple(file for source in (self._base, *self._adapters.values()) for file in source.files)

    def names(self) -> tuple[str, ...]:
        """Canonical names: those of the base, then those that it does not have."""
        return (*self._base.names(), *(name for name in self._changes if name not in self._own))

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        return self._infos[name] if name in self._infos else self._base.info(name)

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with elements from `start`, in C order, merged."""
        if name not in self._changes:
            self._base.read_into(name, buffer, start)
            return
        info = self.info(name)
        check_buffer(info, buffer, start)
        update, group = self._update(name), self._changes[name].columns
        columns = info.shape[-1] if info.shape else 1
        done = 0
        while done < buffer.size:
            row, column = divmod(start + done, columns)
            rows = min(buffer.size - done, BLOCK_SIZE) // columns if column == 0 else 0
            if rows:
                count, first, last = rows * columns, 0, columns
            else:  # a part of a row
                rows, count = 1, min(columns - column, buffer.size - done, BLOCK_SIZE)
                first, last = column // group * group, min(-(-(column + count) // group) * group, columns)
            numbers = self._read_base(name, row * columns + first, rows * (last - first)).reshape(rows, last - first)
            with np.errstate(all="ignore"):  # NaN and Inf stay what they are
                update(numbers, row, first)
            merged = numbers.reshape(-1)[column - first : column - first + count]
            buffer[done : done + count] = to_storage(merged, "f64", info.dtype)
            done += count

    def _read_base(self, name: str, start: int, count: int) -> Floats:
        """Return numbers of the base; zeros for a parameter that it does not have."""
        if name not in self._own:
            return np.zeros(count)
        dtype = self._plain.info(name).dtype
        block = read_buffer(count, storage_type(dtype).array_dtype)
        with self._lock:
            self._plain.read_into(name, block, start)
        return widen(block, dtype, "f64")

    def _update(self, name: str) -> Update:
        """Return the function that changes a parameter; that of the last parameter stays in memory."""
        with self._lock:
            if self._last is None or self._last[0] != name:
                self._last = None
                with np.errstate(all="ignore"):  # infinities stay what they are
                    self._last = name, self._changes[name].update(self._read_adapter)
            return self._last[1]

    def _read_adapter(self, tensor: AdapterTensor, start: int = 0, count: int | None = None) -> Floats:
        source = self._numbers[tensor.file]
        info = source.info(tensor.name)
        block = read_buffer(info.size if count is None else count, storage_type(info.dtype).array_dtype)
        with self._lock:
            source.read_into(tensor.name, block, start)
        numbers: Floats = widen(block, info.dtype, "f64")
        return numbers.reshape(info.shape) if count is None else numbers

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return a parameter without a change as a view of the memory map, if the base does; None for others."""
        return None if name in self._changes else self._base.view(name)

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Compare the checksums of what a parameter is made of; False where one has none."""
        checked = [self._base.check_bytes(name, advance)] if name in self._own else []
        if name in self._changes:
            checked += [
                self._source(tensor).check_bytes(tensor.name, advance) for tensor in self._changes[name].tensors
            ]
        return all(checked)

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32 of a parameter without a change, if the base has it."""
        return None if name in self._changes else self._base.checksum(name)

    def check(self) -> None:
        """Raise FormatError if a file has been truncated since it was opened."""
        for source in (self._base, *self._adapters.values()):
            source.check()

    def close(self) -> None:
        """Do nothing: who opened the files closes them."""

    def __enter__(self) -> MergedSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
