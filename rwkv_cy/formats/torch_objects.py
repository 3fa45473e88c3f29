"""The globals that a pickle of torch may use, and the tensors that it describes, without their data.

Source: torch/_utils.py (_rebuild_tensor_v2, _rebuild_parameter) and torch/serialization.py (persistent ids) of
PyTorch 2.13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.base import MAX_ELEMENTS, MAX_TENSORS, add_entry, check_name, check_shape
from rwkv_cy.formats.pickle_vm import Global
from rwkv_cy.formats.raw import RawTensor
from rwkv_cy.formats.strided import is_contiguous, span
from rwkv_cy.tensors.tensor import TensorInfo

__all__ = ["Element", "Storage", "Tensor", "TorchObjects", "place_tensors", "state_dict"]

#: Keys under which training programs nest the weights.
NESTED_KEYS = ("state_dict", "model")
_MAX_SHOWN = 200


@dataclass(frozen=True)
class Element:
    """Element type of a storage.

    Attributes
    ----------
    name : str
        torch's name of the storage (``"HalfStorage"``).
    itemsize : int
        Size of an element in bytes.
    dtype : str or None
        Storage type of this package; None if models cannot contain it.
    """

    name: str
    itemsize: int
    dtype: str | None = None


ELEMENTS: dict[str, Element] = {
    f"torch.{e.name}": e
    for e in (
        Element("DoubleStorage", 8, "f64"),
        Element("FloatStorage", 4, "f32"),
        Element("HalfStorage", 2, "f16"),
        Element("BFloat16Storage", 2, "bf16"),
        Element("LongStorage", 8),
        Element("IntStorage", 4),
        Element("ShortStorage", 2),
        Element("CharStorage", 1),
        Element("ByteStorage", 1),
        Element("BoolStorage", 1),
        Element("ComplexFloatStorage", 8),
        Element("ComplexDoubleStorage", 16),
        Element("QInt8Storage", 1),
        Element("QUInt8Storage", 1),
        Element("QInt32Storage", 4),
    )
}


@dataclass(frozen=True)
class Storage:
    """A run of elements in the file, identified by its key."""

    key: str
    element: Element
    count: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.count * self.element.itemsize


@dataclass(frozen=True)
class Tensor:
    """A tensor over a storage, as the pickle describes it: only the types have been checked."""

    storage: Storage
    offset: int
    shape: tuple[object, ...]
    strides: tuple[object, ...]


@dataclass(frozen=True)
class Ignored:
    """A value on which no tensor depends."""


class TorchObjects:
    """Creates Storage and Tensor objects for the pickle interpreter, and records the storages.

    Parameters
    ----------
    path : Path
        The file, for messages.
    views : bool
        Whether persistent ids have a sixth part, for views of storages: in the legacy stream.

    Attributes
    ----------
    allowed : mapping of str to Global
        Globals that a pickle may use.
    storages : mapping of str to Storage
        By key, in the order of the file.
    """

    def __init__(self, path: Path, *, views: bool = False) -> None:
        self.storages: dict[str, Storage] = {}
        self._path = path
        self._views = views
        functions: dict[str, Callable[[tuple[Any, ...]], object]] = {
            "collections.OrderedDict": self._ordered_dict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "_codecs.encode": self._encoded,
        }
        self.allowed: Mapping[str, Global] = {
            **{name: Global(name) for name in ELEMENTS},
            **{name: Global(name, function) for name, function in functions.items()},
        }

    def storage(self, identity: object) -> Storage:
        """Resolve a persistent id: ('storage', type, key, location, count), and None in the legacy stream."""
        parts = identity if type(identity) is tuple else ()
        if self._views and len(parts) == 6:
            *head, view = parts
            if view is not None:
                raise UnsupportedError(
                    f"{self._path}: expected whole storages, got a view of one, as torch before 0.4 wrote them; "
                    "load it with that torch and save it again"
                )
            parts = tuple(head)
        match parts:
            case ("storage", Global(name=name), str(key), str(), int(count)) if name in ELEMENTS and count >= 0:
                storage = Storage(key, ELEMENTS[name], count)
            case _:
                raise self._damaged("the id of a storage", f"another {type(identity).__name__}")
        if self.storages.setdefault(key, storage) != storage:
            known = self.storages[key]
            raise self._damaged(
                f"storage {key[:40]!r} as {known.count} of {known.element.name}",
                f"it again as {count} of {storage.element.name}",
            )
        if len(self.storages) > MAX_TENSORS:
            raise self._damaged(f"at most {MAX_TENSORS} storages", "more")
        return storage

    def _tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        match arguments[:4]:
            case (Storage() as storage, int(offset), tuple(shape), tuple(strides)) if 6 <= len(arguments) <= 7:
                return Tensor(storage, offset, shape, strides)
        raise self._damaged("a storage, an offset, a shape and strides of a tensor", "other arguments")

    def _parameter(self, arguments: tuple[Any, ...]) -> Tensor:
        if len(arguments) == 3 and type(arguments[0]) is Tensor:
            return arguments[0]
        raise self._damaged("the tensor of a parameter", "other arguments")

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> dict[str, object]:
        if arguments:
            raise self._damaged("an OrderedDict that begins empty", "one with arguments")
        return {}

    def _encoded(self, arguments: tuple[Any, ...]) -> Ignored:
        match arguments:
            case (str(), "latin1"):
                return Ignored()
        raise self._damaged("text that stands for bytes", "other arguments")

    def _damaged(self, expected: str, got: str) -> FormatError:
        return FormatError(f"{self._path}: expected {expected}, got {got}; the file is damaged: download it again")


def state_dict(path: Path, root: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a checkpoint by name, and its other values as text for display.

    The tensors are in the dictionary `root`, or one level below under a key of NESTED_KEYS.

    Raises
    ------
    UnsupportedError
        If the checkpoint was converted for one strategy of the ``rwkv`` package.
    FormatError
        If there are no tensors.
    """
    found = _dictionary_of_tensors(root)
    if found is None and type(root) is dict:
        found = next(filter(None, (_dictionary_of_tensors(root.get(key)) for key in NESTED_KEYS)), None)
    if found is None:
        raise FormatError(
            f"{path}: expected a dictionary of tensors, or one under {' or '.join(NESTED_KEYS)}, "
            f"got {_shown(root)}; save the weights alone, as torch.save(model.state_dict(), path) does"
        )
    if "_strategy" in found:
        raise UnsupportedError(
            f"{path}: expected a checkpoint as it was trained, got one that the rwkv package converted "
            "for one of its strategies; name the original file"
        )
    tensors: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    for name, value in found.items():
        if isinstance(value, Tensor):
            add_entry(path, tensors, name, value)
        else:
            others[check_name(path, str(name))] = _shown(value)
    return tensors, others


def _dictionary_of_tensors(value: object) -> dict[Any, object] | None:
    if type(value) is dict and any(isinstance(item, Tensor) for item in value.values()):
        return value
    return None


def _shown(value: object) -> str:
    # Never repr() of a container: its items may be shared so often that printing them takes forever.
    if isinstance(value, str):
        return value[:_MAX_SHOWN] if value[:_MAX_SHOWN].isprintable() else repr(value[:_MAX_SHOWN])
    return str(value) if isinstance(value, int | float | None) else f"({type(value).__name__})"


def place_tensors(path: Path, tensors: Mapping[str, Tensor], offsets: Mapping[str, int]) -> dict[str, RawTensor]:
    """Return the position of each tensor in the file, given the offset of each storage by key.

    Raises
    ------
    UnsupportedError
        If a tensor does not contain floating-point numbers.
    FormatError
        If a tensor has impossible strides, or exceeds its storage.
    """
    placed: dict[str, RawTensor] = {}
    for name, tensor in tensors.items():
        element = tensor.storage.element
        if element.dtype is None:
            raise UnsupportedError(
                f"{path}: {name}: expected numbers of type float64, float32, float16 or bfloat16, got {element.name}; "
                "save it as one of those or leave it out"
            )
        shape = check_shape(path, name, tensor.shape)
        strides = _check_strides(path, name, shape, tensor.strides)
        reach = span(shape, strides)
        end = tensor.offset + reach
        if tensor.offset < 0 or end > tensor.storage.count:
            raise FormatError(
                f"{path}: {name}: expected elements within the {tensor.storage.count} of its storage, "
                f"got {tensor.offset} to {end}; the file is damaged: download it again"
            )
        nbytes = min(reach, math.prod(shape)) * element.itemsize  # fewer where elements share their bytes
        info = TensorInfo(name, shape, element.dtype, name, element.dtype, nbytes)
        begin = offsets[tensor.storage.key] + tensor.offset * element.itemsize
        placed[name] = RawTensor(info, begin, None if is_contiguous(shape, strides) else strides)
    return placed


def _check_strides(path: Path, name: str, shape: tuple[int, ...], strides: tuple[object, ...]) -> tuple[int, ...]:
    """Return the strides; FormatError unless there is one for each dimension, not negative and of a sane size."""
    checked = tuple(s for s in strides if isinstance(s, int) and not isinstance(s, bool) and 0 <= s <= MAX_ELEMENTS)
    if len(checked) != len(strides) or len(strides) != len(shape):
        shown = strides if len(strides) <= len(shape) and all(type(s) is int for s in strides) else "others"
        raise FormatError(
            f"{path}: {name}: expected a stride from 0 to 2**48 for each dimension of shape {shape}, got {shown}; "
            "the file is damaged: download it again"
        )
    return checked
