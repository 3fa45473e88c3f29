"""A model in memory, read as if it were a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.tensors.tensor import Advance, Parameter, TensorInfo

__all__ = ["MemorySource"]


class MemorySource:
    """Parameters in memory as a :class:`~rwkv_cy.tensors.tensor.ParameterSource`.

    Parameters
    ----------
    config : Config
        Of the model.
    parameters : mapping of str to Parameter
        By canonical name; optional ones may be missing.
    """

    def __init__(self, config: Config, parameters: Mapping[str, Parameter]) -> None:
        self.path = Path("a model in memory")
        self.format = "memory"
        self.metadata: Mapping[str, str] = {}
        self.left_out: Mapping[str, str] = {}
        order = [spec.name for spec in architecture_of(config).parameters(config)]
        self._parameters = {name: parameters[name] for name in order if name in parameters}

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """An empty tuple."""
        return ()

    def names(self) -> tuple[str, ...]:
        """Canonical names, in the architecture's order."""
        return tuple(self._parameters)

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        parameter = self._parameters[name]
        dtype, nbytes = parameter.dtype, int(parameter.array.nbytes)
        return TensorInfo(name, parameter.shape, dtype, name, dtype, nbytes, parameter.transposed, nbytes)

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with elements of the array from `start` on, in C order."""
        buffer[...] = self._parameters[name].array.reshape(-1)[start : start + buffer.size]

    def view(self, name: str) -> npt.NDArray[Any]:
        """Return the array itself."""
        return self._parameters[name].array

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Return False: memory has no checksums."""
        return False

    def checksum(self, name: str) -> None:
        """Return None: memory has no checksums."""

    def check(self) -> None:
        """Do nothing: memory cannot be truncated."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def __enter__(self) -> MemorySource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
