"""The globals that a pickle of torch may use, and the tensors that it describes, without their data.

The list is that of ``torch.load(weights_only=True)``. Values on which no tensor depends are ignored. Source:
torch/_weights_only_unpickler.py (the list), torch/_utils.py (tensors) and torch/serialization.py (persistent ids) of
PyTorch 2.13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rwkv_cy.formats.pickle_vm import MAX_OPERATIONS, Global, Ignored
from rwkv_cy.formats.torch_tensors import Storage, Tensor, TensorMaker, Unusable
from rwkv_cy.records import dataclass

__all__ = ["Element", "TorchObjects"]


@dataclass(frozen=True)
class Element:
    """Type of the numbers of a tensor.

    Attributes
    ----------
    name : str
        torch's name (``"float16"``).
    itemsize : int
        Size of an element in bytes.
    dtype : str or None
        Storage type of this package; None if models cannot contain it.
    """

    name: str
    itemsize: int
    dtype: str | None = None


_ELEMENTS = {
    element.name: element
    for element in (
        Element("float64", 8, "f64"),
        Element("float32", 4, "f32"),
        Element("float16", 2, "f16"),
        Element("bfloat16", 2, "bf16"),
        Element("complex32", 4),
        Element("complex64", 8),
        Element("complex128", 16),
        *(Element(f"{sign}int{bits}", bits // 8) for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *(Element(f"{sign}int{bits}", 1) for sign in ("", "u") for bits in range(1, 8)),
        *(Element(name, 1) for name in ("bool", "qint8", "quint8", "quint4x2", "quint2x4", "float4_e2m1fn_x2")),
        *(Element(f"float8_{kind}", 1) for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")),
        *(Element(name, 1) for name in ("bits1x8", "bits2x4", "bits4x2", "bits8")),
        Element("qint32", 4),
        Element("bits16", 2),
    )
}
_BYTES = Element("bytes", 1)
#: By the names of storages.
_STORAGES = {
    "torch.DoubleStorage": _ELEMENTS["float64"],
    "torch.FloatStorage": _ELEMENTS["float32"],
    "torch.HalfStorage": _ELEMENTS["float16"],
    "torch.BFloat16Storage": _ELEMENTS["bfloat16"],
    "torch.ComplexFloatStorage": _ELEMENTS["complex64"],
    "torch.ComplexDoubleStorage": _ELEMENTS["complex128"],
    "torch.LongStorage": _ELEMENTS["int64"],
    "torch.IntStorage": _ELEMENTS["int32"],
    "torch.ShortStorage": _ELEMENTS["int16"],
    "torch.CharStorage": _ELEMENTS["int8"],
    "torch.ByteStorage": _ELEMENTS["uint8"],
    "torch.BoolStorage": _ELEMENTS["bool"],
    "torch.QInt8Storage": _ELEMENTS["qint8"],
    "torch.QUInt8Storage": _ELEMENTS["quint8"],
    "torch.QInt32Storage": _ELEMENTS["qint32"],
    "torch.QUInt4x2Storage": _ELEMENTS["quint4x2"],
    "torch.QUInt2x4Storage": _ELEMENTS["quint2x4"],
    "torch.storage.UntypedStorage": _BYTES,
    "torch.UntypedStorage": _BYTES,
}
_TYPES = {f"torch.{name}": element for name, element in _ELEMENTS.items()}
#: Names that are referenced only.
_NAMES = (
    "torch.Tensor",
    "torch.nn.parameter.Buffer",
    *(f"torch.per_{what}" for what in ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")),
    "torch.per_channel_affine_float_qparams",
)
#: Functions whose results no tensor depends on, or which only :data:`_UNUSABLE` take.
_IGNORED = (
    "torch.device",
    "torch.serialization._get_layout",
    "collections.Counter",
    *(f"{builtins}.{kind}" for builtins in ("builtins", "__builtin__") for kind in ("bytearray", "bytes", "complex")),
    *(f"{builtins}.{kind}" for builtins in ("builtins", "__builtin__") for kind in ("set", "frozenset")),
)
#: Functions that make tensors which are not arrays of numbers in the file.
_UNUSABLE = {
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a tensor quantized by torch",
    "torch._utils._rebuild_meta_tensor_no_storage": "a meta tensor, which has no numbers",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
}


class TorchObjects(TensorMaker):
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
        super().__init__(path, _STORAGES, views)
        self._pairs = 0
        tensors: dict[str, Callable[[tuple[Any, ...]], object]] = {
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_parameter": self._same_tensor,
            "torch._utils._rebuild_parameter_with_state": self._same_tensor,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": self._same_tensor,
            "torch.nn.parameter.Parameter": self._same_tensor,
            **{name: lambda _, what=what: Unusable(what) for name, what in _UNUSABLE.items()},  # type: ignore[misc]
        }
        functions: dict[str, Callable[[tuple[Any, ...]], object]] = {
            **tensors,
            "torch._tensor._rebuild_from_type_v2": self._tensor_with_attributes,
            "collections.OrderedDict": self._ordered_dict,
            "torch.Size": self._size,
            "_codecs.encode": self._encoded,
            **{name: lambda _, kind=name: Ignored(kind) for name in _IGNORED},  # type: ignore[misc]
        }
        self._tensor_functions = tensors
        self.allowed: Mapping[str, Global] = {
            **{name: Global(name) for name in (*_STORAGES, *_TYPES, *_NAMES)},
            **{name: Global(name, function) for name, function in functions.items()},
        }

    def _typed_tensor(self, arguments: tuple[Any, ...]) -> Tensor | Unusable:
        """Make a tensor of the same, with the type of its numbers before the flags, over a storage of bytes."""
        match arguments[:4], arguments[6:7]:
            case (Storage() as storage, int(offset), tuple(shape), tuple(strides)), (Global(name=name),) if (
                name in _TYPES and len(arguments) <= 8
            ):
                return self.flagged(Tensor(storage, offset, shape, strides, _TYPES[name]), arguments[7:])
        raise self.damaged("a storage, an offset, a shape, strides and a type of a tensor", "other arguments")

    def _same_tensor(self, arguments: tuple[Any, ...]) -> Tensor | Unusable:
        if 1 <= len(arguments) <= 4 and isinstance(arguments[0], Tensor | Unusable):
            return arguments[0]
        raise self.damaged("the tensor of a parameter", "other arguments")

    def _tensor_with_attributes(self, arguments: tuple[Any, ...]) -> object:
        """Make a tensor of: its function, its class, the arguments of the function, its attributes."""
        match arguments:
            case (Global(name=name), Global(), tuple(inner), _) if name in self._tensor_functions:
                return self._tensor_functions[name](inner)
        raise self.damaged("a function that makes a tensor, a class, arguments and attributes", "other arguments")

    def _size(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        match arguments:
            case (tuple(shape),):
                return shape
        raise self.damaged("the dimensions of a shape", "other arguments")

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> dict[str, object]:
        if not arguments:
            return {}
        # Python 2 gives it a list of pairs.
        pairs: list[Any] = arguments[0] if len(arguments) == 1 and type(arguments[0]) is list else [None]
        # One list may be given very many times, and each time it is copied.
        self._pairs += len(pairs)
        if self._pairs > MAX_OPERATIONS:
            raise self.damaged(f"at most {MAX_OPERATIONS} pairs for OrderedDicts", "more")
        result: dict[str, object] = {}
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) is not str or pair[0] in result:
                raise self.damaged("an OrderedDict of pairs, each with a name of its own", "other arguments")
            result[pair[0]] = pair[1]
        return result

    def _encoded(self, arguments: tuple[Any, ...]) -> Ignored:
        match arguments:
            case (str(), "latin1"):
                return Ignored("bytes")
        raise self.damaged("text that stands for bytes", "other arguments")
