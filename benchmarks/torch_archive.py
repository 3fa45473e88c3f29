"""Checkpoints in the format of torch.save, streamed to disk from blocks of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rwkv_cy.files.blocks import bytes_of
from rwkv_cy.formats.writers.base import FLOAT_TYPES, StoredTensor
from rwkv_cy.formats.writers.pth import archive

__all__ = ["ArchiveTensor", "write_archive"]


@dataclass(frozen=True)
class ArchiveTensor:
    """A tensor to be written.

    Attributes
    ----------
    name : str
    dtype : str
        Storage type.
    shape : tuple of int
    blocks : iterable of ndarray
        Its numbers in C order, of the array dtype of `dtype`; read once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Iterable[npt.NDArray[Any]]


def write_archive(path: Path, tensors: Sequence[ArchiveTensor]) -> None:
    """Write a state dict; memory is bounded by a block of a tensor, and the same tensors give the same bytes."""
    blocks = {tensor.name: tensor.blocks for tensor in tensors}

    def read(tensor: StoredTensor) -> Iterator[memoryview]:
        return (block.data.cast("B") for block in blocks[tensor.name])

    stored = [StoredTensor(tensor.name, tensor.shape, "", FLOAT_TYPES[tensor.dtype]) for tensor in tensors]
    with path.open("wb") as file:
        file.writelines(map(bytes_of, archive(stored).blocks(read)))
