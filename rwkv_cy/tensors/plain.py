"""A source as plain numbers: every tensor decoded to floating point, in canonical orientation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.records import replace
from rwkv_cy.tensors.reading import number_type, read_numbers
from rwkv_cy.tensors.tensor import Advance, ParameterSource, TensorInfo, check_buffer
from rwkv_cy.tensors.transposing import TransposedReader

__all__ = ["PlainSource"]


class PlainSource:
    """A :class:`~rwkv_cy.tensors.tensor.ParameterSource` of the numbers of another one.

    Quantized and compressed matrices are decoded as they are read, and arrays that are stored transposed are read in
    canonical orientation. One thread reads at a time.

    Parameters
    ----------
    source : ParameterSource
        Closed with this one.
    """

    def __init__(self, source: ParameterSource) -> None:
        self.path = source.path
        self.format = source.format
        self.metadata: Mapping[str, str] = source.metadata
        self.left_out: Mapping[str, str] = source.left_out
        self._source = source
        self._transposed = TransposedReader(source)
        self._infos: dict[str, TensorInfo] = {}  # needed for every block that is read

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The files that hold the weights, as they were opened."""
        return self._source.files

    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in the file's order."""
        return self._source.names()

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        plain = self._infos.get(name)
        if plain is None:
            info = self._source.info(name)
            plain = replace(info, dtype=number_type(info), transposed=False, encoded_nbytes=0)
            self._infos[name] = plain
        return plain

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with numbers from `start`, in C order of the canonical shape."""
        info = self._source.info(name)
        check_buffer(self.info(name), buffer, start)
        if info.codec.matrices_only:
            buffer[:] = read_numbers(self._source, info, start, buffer.size)
        elif info.transposed:
            self._transposed.read_into(info, buffer, start)
        else:
            self._source.read_into(name, buffer, start)

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the tensor as a read-only array over a memory map, or None if it is decoded or transposed."""
        info = self._source.info(name)
        return None if info.codec.matrices_only or info.transposed else self._source.view(name)

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Compare the checksum of a tensor's bytes; False where the source has none."""
        return self._source.check_bytes(name, advance)

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32 of a tensor's bytes; None if they are decoded or transposed, or the source has none."""
        info = self._source.info(name)
        return None if info.codec.matrices_only or info.transposed else self._source.checksum(name)

    def check(self) -> None:
        """Raise FormatError if a file has been truncated since it was opened."""
        self._source.check()

    def close(self) -> None:
        """Close the source. Arrays from :meth:`view` stay valid."""
        self._source.close()

    def __enter__(self) -> PlainSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
