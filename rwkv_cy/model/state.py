"""State: what a model remembers between tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy import storage
from rwkv_cy.architectures.base import StateField
from rwkv_cy.dtypes import array_dtype
from rwkv_cy.errors import FormatError, StateError

__all__ = ["LayerState", "State"]

#: Kind of file, as stored in a state file.
_FILE_KIND = "state"


class LayerState(Mapping[str, npt.NDArray[Any]]):
    """State of one layer: its arrays by name, as writable views.

    ``layer_state["att_aa"]`` and ``layer_state.att_aa`` are the same array.
    """

    __slots__ = ("_views", "data")

    def __init__(self, fields: Sequence[StateField], data: npt.NDArray[Any]) -> None:
        self.data = data
        self._views: dict[str, npt.NDArray[Any]] = {}
        start = 0
        for field in fields:
            self._views[field.name] = data[start : start + field.size].reshape(field.shape)
            start += field.size

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __getattr__(self, name: str) -> npt.NDArray[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._views[name]
        except KeyError:
            raise AttributeError(f"LayerState has no field {name!r}; it has {', '.join(self._views)}") from None


class State:
    """State of a model; its size does not depend on the number of tokens.

    Parameters
    ----------
    architecture : str
        Version of RWKV, such as ``"rwkv4"``.
    fields : sequence of StateField
        The arrays of one layer; every layer has the same.
    data : numpy.ndarray
        All elements, shape (num_layers, sum of the fields' sizes), float32 or float64, contiguous.
        Used without a copy.
    fingerprint : str, default ""
        Fingerprint of the model that the state belongs to; an empty one fits every model of the same dimensions.

    Raises
    ------
    StateError
        If `data` does not fit `fields`.
    """

    def __init__(
        self, architecture: str, fields: Sequence[StateField], data: npt.NDArray[Any], fingerprint: str = ""
    ) -> None:
        width = sum(field.size for field in fields)
        if data.ndim != 2 or data.shape[1] != width or not data.flags.c_contiguous:
            raise StateError(
                f"State: expected a contiguous array (num_layers, {width}) for {architecture}, got {data.shape}"
            )
        if data.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise StateError(f"State: expected float32 or float64 numbers, got {data.dtype}")
        self.architecture = architecture
        self.fields = tuple(fields)
        self.data = data
        self.fingerprint = fingerprint
        self._valid = True

    def invalidate(self) -> None:
        """Mark the state as partly updated, after a call that wrote to it has failed."""
        self._valid = False

    def complete(self) -> None:
        """Mark the state as complete, after a call that overwrote all of it."""
        self._valid = True

    def check_valid(self) -> None:
        """Raise StateError if a call that wrote to the state has failed."""
        if not self._valid:
            raise StateError(
                "state: expected a complete state, got one that a failed call had partly updated in place; "
                "continue from a copy, or start from None"
            )

    @classmethod
    def initial(
        cls, architecture: str, fields: Sequence[StateField], num_layers: int, dtype: str, fingerprint: str = ""
    ) -> State:
        """Return the state before the first token.

        Parameters
        ----------
        architecture : str
            Name of the version.
        fields : sequence of StateField
            Those of a layer, in their order.
        num_layers : int
        dtype : {"f32", "f64"}
            Type of the numbers.
        fingerprint : str, default ""
            That of the model.
        """
        row = np.concatenate([np.full(field.size, field.initial) for field in fields])
        data = np.tile(row, (num_layers, 1)).astype(array_dtype(dtype))
        return cls(architecture, fields, data, fingerprint)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return int(self.data.shape[0])

    @property
    def layers(self) -> tuple[LayerState, ...]:
        """The layers' states, as views: writing to them changes this state."""
        return tuple(LayerState(self.fields, row) for row in self.data)

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return int(self.data.nbytes)

    def copy(self) -> State:
        """Return an independent copy."""
        self.check_valid()
        return State(self.architecture, self.fields, self.data.copy(), self.fingerprint)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self.copy()

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the state to a small, checksummed HDF5 file; `path` is then complete, or unchanged on failure.

        Parameters
        ----------
        path : path-like
            The file.
        overwrite : bool, default False
            Whether to replace an existing state file. A file of another kind is never replaced.

        Raises
        ------
        StorageError
            If the file exists and may not be replaced, or the operating system refuses access.
        """
        self.check_valid()
        arrays = {field.name: np.stack([layer[field.name] for layer in self.layers]) for field in self.fields}
        attributes: dict[str, int | float | str] = {
            "architecture": self.architecture,
            "fingerprint": self.fingerprint,
            **{f"initial.{field.name}": field.initial for field in self.fields},
        }
        storage.write_arrays(path, _FILE_KIND, attributes, arrays, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> State:
        """Read a state that :meth:`save` wrote, with the same bits.

        Parameters
        ----------
        path : path-like
            The file.

        Raises
        ------
        FormatError
            If the file is damaged, unfinished or not a state file.
        StateError
            If its arrays contradict each other.
        StorageError
            If the operating system refuses access.
        """
        if not storage.is_model_file(path):
            raise FormatError(
                f"{path}: not a file that State.save wrote; read a state-tuned .pth or safetensors file with "
                "model.load_state"
            )
        attributes, arrays = storage.read_arrays(path, _FILE_KIND)
        architecture, fingerprint = attributes.get("architecture"), attributes.get("fingerprint")
        initial = {name: attributes.get(f"initial.{name}") for name in arrays}
        if not isinstance(architecture, str) or not isinstance(fingerprint, str):
            raise StateError(f"{path}: expected the state's architecture and fingerprint, got none; save it again")
        shapes = {array.shape[0] for array in arrays.values()} if arrays else set()
        dtypes = {array.dtype for array in arrays.values()}
        numbers = [value for value in initial.values() if isinstance(value, float)]
        if len(shapes) != 1 or len(dtypes) != 1 or len(numbers) != len(arrays):
            raise StateError(
                f"{path}: expected arrays of one type and number of layers, each with an initial value, "
                f"got {', '.join(f'{name} {array.dtype} {array.shape}' for name, array in arrays.items()) or 'none'}"
            )
        fields = [
            StateField(name, array.shape[1:], value)
            for (name, array), value in zip(arrays.items(), numbers, strict=True)
        ]
        rows = shapes.pop()
        data = np.concatenate([array.reshape(rows, -1) for array in arrays.values()], axis=1)
        return cls(architecture, fields, data, fingerprint)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same architecture, layout, model and bits."""
        if not isinstance(other, State):
            return NotImplemented
        return (
            self.architecture == other.architecture
            and self.fields == other.fields
            and self.fingerprint == other.fingerprint
            and self.data.dtype == other.data.dtype
            and self.data.shape == other.data.shape
            and self.data.tobytes() == other.data.tobytes()
        )

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return (
            f"State({self.architecture}, num_layers={self.num_layers}, {self.data.dtype}, "
            f"{self.nbytes} bytes, fingerprint={self.fingerprint[:12] or 'none'})"
        )
