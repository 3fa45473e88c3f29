"""Storage types: their names, the sizes of their numbers and blocks, and conversion between floating point types."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.dtype_names import canonical_name, nearest_type
from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "ACTIVATION_TYPES",
    "GROUP_ROWS",
    "MATRIX_TYPES",
    "PACKED",
    "QUANTIZED_TYPES",
    "STORAGE_TYPES",
    "QuantizedType",
    "StorageType",
    "array_dtype",
    "bf16_to_f32",
    "check_activations",
    "check_dtype",
    "f32_to_bf16",
    "known_dtype",
    "storage_type",
    "to_storage",
    "widen",
]


@dataclass(frozen=True)
class StorageType:
    """One way to store a number.

    Attributes
    ----------
    name : str
        Short name, as in options (``"bf16"``).
    array_format : str
        Of the arrays that store it, as NumPy spells it (``"<f4"``). NumPy does not have bfloat16; its bits are stored
        as uint16.
    itemsize : int
        Bytes of one number.
    lossless_in : tuple of str
        The types that represent every value of this one exactly, itself included.
    """

    name: str
    array_format: str
    itemsize: int
    lossless_in: tuple[str, ...]

    @cached_property
    def array_dtype(self) -> np.dtype[Any]:
        """NumPy's type of these arrays."""
        return np.dtype(self.array_format)


STORAGE_TYPES: dict[str, StorageType] = {
    t.name: t
    for t in (
        StorageType("f64", "<f8", 8, ("f64",)),
        StorageType("f32", "<f4", 4, ("f32", "f64")),
        StorageType("f16", "<f2", 2, ("f16", "f32", "f64")),
        StorageType("bf16", "<u2", 2, ("bf16", "f32", "f64")),
    )
}


@dataclass(frozen=True)
class QuantizedType:
    """One way to store a matrix in few bits: blocks of integers, each row with a scale (docs/file-format.md).

    Attributes
    ----------
    name : str
        Short name, as in options (``"q8"``).
    columns : int
        Columns of a block, which has :data:`GROUP_ROWS` rows.
    block_bytes : int
        Bytes of a block.
    head_bytes : int
        Bytes before the integers, in words of 16 bits: scales, and what else the type has for each row.
    exponent : int
        Bits of a word that are all set if its scale or minimum is not finite.
    searched : bool
        Whether scales are those of the smallest error that a search finds.
    """

    name: str
    columns: int
    block_bytes: int
    head_bytes: int
    exponent: int = 0x7C00
    searched: bool = True

    def packed_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the shape of the uint8 array that stores a matrix (rows, columns)."""
        rows, columns = shape
        return -(-rows // GROUP_ROWS), -(-columns // self.columns), self.block_bytes


#: Precision of the activations that bf16 matrices are multiplied with: float32, or rounded to bfloat16.
ACTIVATION_TYPES = ("f32", "bf16")
#: Rows of a quantized block.
GROUP_ROWS = 16
QUANTIZED_TYPES: dict[str, QuantizedType] = {
    t.name: t
    for t in (
        QuantizedType("q8", 32, 32 + 512, 32, searched=False),
        QuantizedType("q6", 64, 64 + 512 + 256, 64),
        QuantizedType("q4", 64, 64 + 512, 64),
        QuantizedType("q4n", 32, 32 + 256, 32, exponent=0xF800),
    )
}

#: bfloat16 compressed to 12 bits a weight, without loss (docs/file-format.md).
PACKED = "bf12"
#: Types that store matrices only; their arrays are of bytes.
MATRIX_TYPES = (*QUANTIZED_TYPES, PACKED)


def array_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy type of the arrays that store the type `name`."""
    return np.dtype(np.uint8) if name in MATRIX_TYPES else storage_type(name).array_dtype


def check_activations(name: str) -> None:
    """Raise ConfigError unless `name` is one of ACTIVATION_TYPES."""
    if name not in ACTIVATION_TYPES:
        raise ConfigError(f"activations: expected {' or '.join(ACTIVATION_TYPES)}, got {name!r}")


def check_dtype(name: str | None) -> str | None:
    """Return our name of a storage type, for other spellings of it too (``"float16"``); None stays None.

    Raises
    ------
    ConfigError
        If it is not a storage type.
    """
    return None if name is None else known_dtype(name)


def known_dtype(name: str) -> str:
    """Return our name of a storage type, as :func:`check_dtype` does, which is not None.

    Raises
    ------
    ConfigError
        If it is not a storage type.
    """
    known = (*STORAGE_TYPES, *MATRIX_TYPES)
    ours = canonical_name(name) if isinstance(name, str) else ""
    if ours in known:
        return ours
    near = nearest_type(name) if isinstance(name, str) else _of_another_library(name)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ConfigError(f"dtype: expected one of {', '.join(sorted(known))}, got {name!r}{hint}")


def _of_another_library(dtype: object) -> str | None:
    """Return our name of a type of NumPy or torch, if it is one."""
    name = canonical_name(str(getattr(dtype, "__name__", dtype)).rpartition(".")[2])
    return name if name in STORAGE_TYPES else None


def storage_type(name: str) -> StorageType:
    """Return the floating point type `name`.

    Raises
    ------
    ConfigError
        If it is not one.
    """
    try:
        return STORAGE_TYPES[name]
    except KeyError:
        known = ", ".join(sorted(STORAGE_TYPES))
        raise ConfigError(f"dtype: expected one of {known}, got {name!r}") from None


def bf16_to_f32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widen bfloat16 bits (uint16) to float32, exactly."""
    widened: npt.NDArray[np.float32] = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened


def f32_to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16 bits (uint16), to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    result: npt.NDArray[np.uint16] = (rounded >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        result[nan] = (bits[nan] >> np.uint32(16)).astype(np.uint16) | np.uint16(0x40)
    return result


def widen(array: npt.NDArray[Any], dtype: str, target: str = "f32") -> npt.NDArray[Any]:
    """Convert an array stored as `dtype` to ``"f32"`` or ``"f64"`` numbers."""
    array_type = storage_type(target).array_dtype
    if dtype == "bf16":
        array = bf16_to_f32(array)
    if array.dtype == array_type:
        return array
    # NumPy warns when a signalling NaN becomes a quiet one, and when a number becomes infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        return array.astype(array_type, copy=False)


def to_storage(array: npt.NDArray[Any], dtype: str, target: str) -> npt.NDArray[Any]:
    """Convert an array stored as `dtype` to the storage type `target`, rounding to nearest even.

    Values beyond the range of `target` become infinite.
    """
    if dtype == target:
        return array
    if target == "bf16":
        return f32_to_bf16(_f32_to_odd(array) if dtype == "f64" else widen(array, dtype, "f32"))
    with np.errstate(invalid="ignore", over="ignore"):
        return widen(array, dtype, "f64" if dtype == "f64" else "f32").astype(storage_type(target).array_dtype)


def _f32_to_odd(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Narrow float64 by rounding to odd, so that rounding again to bfloat16 equals rounding once."""
    with np.errstate(invalid="ignore", over="ignore"):
        narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    inexact = narrow.astype(np.float64) != values
    bits -= (np.abs(narrow) > np.abs(values)).astype(np.uint32)
    bits |= (inexact & ~np.isnan(values)).astype(np.uint32)
    return narrow
