"""Files of a few tensors in memory: adapters and tuned states as the authors' tools read them, and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import to_storage
from rwkv_cy.errors import ConfigError
from rwkv_cy.files.blocks import bytes_of
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.formats.writers.base import FLOAT_TYPES, StoredTensor, TargetFile
from rwkv_cy.formats.writers.pth import archive
from rwkv_cy.formats.writers.safetensors import safetensors_file

__all__ = ["TENSOR_SUFFIXES", "check_suffix", "type_of", "write_tensors"]

#: Formats of tensor files, by suffix.
TENSOR_SUFFIXES = (".pth", ".safetensors")


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless the name of a tensor file tells its format."""
    if path.suffix not in TENSOR_SUFFIXES:
        raise ConfigError(
            f"{path}: expected a name that ends in {' or '.join(TENSOR_SUFFIXES)}, got {path.suffix or 'no suffix'!r}"
        )


def write_tensors(
    path: Path,
    tensors: Mapping[str, npt.NDArray[Any]],
    *,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write tensors to a PyTorch ``.pth`` or a safetensors file, complete or not at all.

    Parameters
    ----------
    path : Path
        Its suffix tells the format.
    tensors : mapping of str to numpy.ndarray
        float32 or float64.
    dtype : {"f32", "f16", "bf16"}, optional
        Type to round them to; by default they keep theirs.
    metadata : mapping of str to str, optional
        ``__metadata__`` of a safetensors file.
    overwrite : bool, default False
        Whether an existing file may be replaced.

    Raises
    ------
    ConfigError
        If the suffix is another one.
    StorageError
        If the file exists, or the operating system reports an error.
    """
    check_suffix(path)
    stored = [
        StoredTensor(name, array.shape, "vector", FLOAT_TYPES[dtype or type_of(array)])
        for name, array in tensors.items()
    ]
    target: TargetFile = archive(stored) if path.suffix == ".pth" else safetensors_file("", stored, metadata or {})

    def read(tensor: StoredTensor) -> Iterator[memoryview]:
        array = np.ascontiguousarray(tensors[tensor.name])
        numbers = np.ascontiguousarray(to_storage(array, type_of(array), tensor.type.numbers))
        yield numbers.reshape(-1).view(np.uint8).data

    with Replacement(path, overwrite=overwrite) as file:
        file.reserve(target.size)
        position = 0
        for block in target.blocks(read):
            data = bytes_of(block)
            file.write_at(position, data)
            position += len(data)
        file.commit()


def type_of(array: npt.NDArray[Any]) -> str:
    """Return the storage type of an array of float32 or float64."""
    return "f64" if array.dtype == np.float64 else "f32"
