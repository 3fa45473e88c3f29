"""Named tensors: in memory, as described by a file, and the interface of every source of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from rwkv_cy.dtypes import STORAGE_TYPES, known_dtype
from rwkv_cy.errors import ConfigError, KernelError, SpecError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.records import dataclass, replace
from rwkv_cy.tensors.codecs import CODECS, Codec, codec_of

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Advance", "Parameter", "ParameterSource", "TensorInfo", "as_parameter", "check_buffer"]


#: Called with the number of bytes that have just been read.
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Parameter:
    """A tensor in memory.

    Attributes
    ----------
    array : numpy.ndarray
        The array that stores it: for a floating point type the numbers in canonical shape (bfloat16 as uint16), for a
        quantized or bf12 matrix its bytes (uint8).
    dtype : str
        Storage type (``"bf16"``).
    matrix_shape : tuple of int, optional
        Canonical shape of a quantized or bf12 matrix; None for all others.
    transposed : bool, default False
        The array is, or encodes, the transpose of the matrix.
    inputs : numpy.ndarray, optional
        float32, shape (tokens, in), of a matrix (out, in): receives the first so many tokens that a model made of the
        parameter multiplies the matrix with.
    """

    array: npt.NDArray[Any]
    dtype: str
    matrix_shape: tuple[int, ...] | None = None
    transposed: bool = False
    inputs: npt.NDArray[np.float32] | None = None

    @property
    def codec(self) -> Codec:
        """The codec of `dtype`."""
        return codec_of(self.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Canonical shape."""
        return self.matrix_shape or (self.array.shape[::-1] if self.transposed else self.array.shape)


def as_parameter(value: Parameter | npt.NDArray[Any], name: str = "parameter") -> Parameter:
    """Return a Parameter, or a plain float64, float32 or float16 array as one; the result is contiguous and aligned.

    Other spellings of a type are accepted, and a list or an array as `matrix_shape`.

    Parameters
    ----------
    value : Parameter or numpy.ndarray
    name : str
        What messages call it.

    Raises
    ------
    SpecError
        If a field is of another kind, or the array of another type, or it cannot be that of the type and shape.
    """
    if isinstance(value, Parameter):
        problem = _field_problem(value)
        if problem is None:
            value = _normalized(value, name)
            problem = _array_problem(value)
        if problem is not None:
            raise SpecError(f"{name}: expected {problem}; give what the parameters of a model hold")
        return value
    if not isinstance(value, np.ndarray):
        raise SpecError(f"{name}: expected an array of float64, float32 or float16, got {type(value).__name__}")
    for dtype, storage in STORAGE_TYPES.items():
        if value.dtype == storage.array_dtype and storage.array_dtype.kind == "f":
            return as_parameter(Parameter(value, dtype), name)
    raise SpecError(f"{name}: expected an array of float64, float32 or float16, got {value.dtype}")


def _field_problem(value: Parameter) -> str | None:
    """Describe expected and actual value if a field of a Parameter is of another kind, other than its type."""
    if not isinstance(value.array, np.ndarray):
        return f"a NumPy array, got {type(value.array).__name__}"
    if value.matrix_shape is not None and _whole_numbers(value.matrix_shape) is None:
        return f"matrix_shape of whole numbers, or None, got {str(value.matrix_shape)[:80]}"
    if not isinstance(value.transposed, (int, np.integer, np.bool_)) or value.transposed not in (False, True):
        return f"transposed of True or False, got {str(value.transposed)[:80]}"
    inputs: object = value.inputs
    if inputs is not None and not (isinstance(inputs, np.ndarray) and inputs.flags.carray):
        kind = "one that is not" if isinstance(inputs, np.ndarray) else type(inputs).__name__
        return f"inputs of None, or a contiguous, writable array, got {kind}"
    return None


def _whole_numbers(shape: object) -> tuple[int, ...] | None:
    """Return a list, a tuple or an array of whole numbers as a tuple of int; None for anything else."""
    try:
        return tuple(map(index, shape)) if isinstance(shape, (list, tuple, np.ndarray)) else None
    except TypeError:
        return None


def _normalized(value: Parameter, name: str) -> Parameter:
    """Return a Parameter with a contiguous, aligned array, our name of the type, and a tuple of int as its shape."""
    try:
        dtype = known_dtype(value.dtype)
    except ConfigError as error:
        raise SpecError(f"{name}: {error}") from None
    flags = value.array.flags
    kept = flags.c_contiguous and flags.aligned and value.matrix_shape is None and type(value.transposed) is bool
    if kept and dtype == value.dtype:
        return value  # as nearly always: copies of thousands take a while
    return replace(
        value,
        array=np.require(value.array, requirements=["C", "A"]),
        dtype=dtype,
        matrix_shape=_whole_numbers(value.matrix_shape),
        transposed=bool(value.transposed),
    )


def _array_problem(value: Parameter) -> str | None:
    """Describe expected and actual array if a Parameter's cannot be of its type and shape."""
    codec, array, shape = value.codec, value.array, value.matrix_shape
    if array.dtype != codec.array_dtype:
        return f"an array of {codec.array_dtype} for {value.dtype}, got {array.dtype} of shape {array.shape}"
    if not codec.matrices_only:
        own = array.shape[::-1] if value.transposed else array.shape
        if value.transposed and len(own) != 2:
            return f"rows and columns of a transposed matrix, got an array of shape {array.shape}"
        return None if shape in (None, own) else f"matrix_shape None, or {own} of the array, got {str(shape)[:80]}"
    if shape is None or len(shape) != 2 or min(shape) < 1:
        return f"matrix_shape, the rows and columns of a {value.dtype} matrix, got {shape}"
    return codec.shape_problem(array.shape, shape[::-1] if value.transposed else shape)


@dataclass(frozen=True)
class TensorInfo:
    """Description of one tensor in a file, without its numbers.

    Attributes
    ----------
    name : str
        Canonical name, as in the original checkpoints (``"blocks.0.att.key.weight"``).
    shape : tuple of int
        Canonical shape, as in the original checkpoints: matrices are (out, in).
    dtype : str
        Storage type that :meth:`ParameterSource.read_into` delivers (``"bf16"``).
    source_name : str
        The name in the file.
    source_dtype : str
        The type in the file (``"q5_1"``); equals `dtype` unless the reader decodes it.
    source_nbytes : int
        Bytes of the tensor in the file.
    transposed : bool, default False
        The array is, or encodes, the transpose of the matrix: `encoded_shape` is `shape` reversed.
    encoded_nbytes : int, default 0
        Bytes of the array, for storage types whose size depends on the numbers (bf12); ignored for all others.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source_name: str
    source_dtype: str
    source_nbytes: int
    transposed: bool = False
    encoded_nbytes: int = 0

    @property
    def codec(self) -> Codec:
        """The codec of `dtype`."""
        return CODECS.get(self.dtype) or codec_of(self.dtype)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape)

    @property
    def decoded(self) -> bool:
        """Whether the reader decodes it from a type of another program."""
        return self.source_dtype != self.dtype

    def rounds_twice(self, dtype: str) -> bool:
        """Tell whether storing it as `dtype` would requantize quantized numbers."""
        once = self.decoded or self.codec.requantizes
        return once and CODECS[dtype].requantizes and dtype != self.dtype

    @property
    def encoded_shape(self) -> tuple[int, ...]:
        """Shape of what the array stores: that of the tensor, or of its transpose."""
        return self.shape[::-1] if self.transposed else self.shape

    @cached_property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of the array that stores the tensor."""
        return self.codec.array_shape(self.encoded_shape, self.encoded_nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of that array."""
        return math.prod(self.array_shape) * self.codec.itemsize

    def parameter(self, array: npt.NDArray[Any]) -> Parameter:
        """Return the tensor as a Parameter stored in `array`."""
        return Parameter(array, self.dtype, self.shape if self.codec.matrices_only else None, self.transposed)


@runtime_checkable
class ParameterSource(Protocol):
    """An open model file of any format. A context manager that closes the file."""

    path: Path
    #: Name of the format: "hdf5", "pth", "pth-legacy", "safetensors", "huggingface", "rwkvcpp", or "memory".
    format: str

    @property
    def metadata(self) -> Mapping[str, str]:
        """Other metadata of the file, for display and for the tokenizer."""
        ...

    @property
    def left_out(self) -> Mapping[str, str]:
        """Tensors of the file that no model can have, by their names in it, described: ``"int64, shape (1,)"``."""
        ...

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """The files with the weights, as they were when opened; shards are in the order of their names."""
        ...

    def names(self) -> tuple[str, ...]:
        """Canonical names, in the file's order."""
        ...

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        ...

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with elements ``start .. start + buffer.size`` of the array, in C order.

        The array is that of the tensor's codec, or the transpose if ``info(name).transposed``. `buffer` is 1-D,
        contiguous, and of the codec's array dtype (uint16 for bf16; uint8 for quantized matrices and bf12, whose
        elements are bytes). Reads only that part of the file, and needs memory for that part only.
        """
        ...

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the array as a read-only view of a memory map; None if the bytes must be decoded."""
        ...

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Read the stored bytes of a tensor and verify their checksum.

        Parameters
        ----------
        name : str
        advance : callable, optional
            Called with the bytes of each block that has been read. What it raises ends the reading.

        Returns
        -------
        bool
            False, without reading anything, if the file does not have a checksum for them.

        Raises
        ------
        FormatError
            If the checksum differs: the file is damaged.
        """
        ...

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32 that the file has for exactly the bytes that :meth:`read_into` delivers, or None.

        Whoever reads all of them can compare it, instead of reading them again with :meth:`check_bytes`.
        """
        ...

    def check(self) -> None:
        """Raise FormatError if a mapped file has been truncated since it was opened."""
        ...

    def close(self) -> None:
        """Close the file. Arrays from :meth:`view` stay valid."""
        ...

    def __enter__(self) -> ParameterSource: ...

    def __exit__(self, *exc: object) -> None: ...


def check_buffer(info: TensorInfo, buffer: npt.NDArray[Any], start: int) -> None:
    """Raise KernelError unless `buffer` can take elements ``start .. start + buffer.size`` of the tensor."""
    expected = info.codec.array_dtype
    if buffer.ndim != 1 or buffer.dtype != expected or not buffer.flags.c_contiguous or not buffer.flags.writeable:
        raise KernelError(
            f"{info.name}: expected a writable contiguous 1-D buffer of {expected}, "
            f"got {buffer.ndim}-D of {buffer.dtype} with strides {buffer.strides}"
        )
    if start < 0 or start + buffer.size > math.prod(info.array_shape):
        raise KernelError(
            f"{info.name}: expected elements within its {math.prod(info.array_shape)}, got {buffer.size} from {start}"
        )
