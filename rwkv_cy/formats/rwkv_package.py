"""Checkpoints that the ``rwkv`` package converted for one of its strategies, brought back to the original form.

The package applies ln0 to the embedding and drops it, transposes the matrices, divides those that write to the residual
stream by a power of two, computes the decays and bonuses of the time mix, squeezes its vectors, and may store matrices
in eight bits. All but the first can be undone: the model stays one without ln0. Source: rwkv/model.py of version 0.8.32
("Load weights to self.w", and torch_mm8_one for the eight bits).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rwkv_cy.dtypes import storage_type, to_storage, widen
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.layouts.layout import Part, Recipe
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.layouts.steps import DOUBLE_EXPONENTIAL, NEGATED_EXPONENTIAL, Operation
from rwkv_cy.formats.metadata import NORMALIZED_EMBEDDING
from rwkv_cy.formats.raw import RawSource, RawTensor
from rwkv_cy.formats.state_dict import StateDict
from rwkv_cy.formats.strided import span
from rwkv_cy.formats.torch_tensors import Tensor, checksums, place_tensors
from rwkv_cy.formats.zip_directory import Place
from rwkv_cy.records import dataclass
from rwkv_cy.tensors.tensor import Advance, TensorInfo, check_buffer

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["open_converted"]

_OLDEST = 0.7
_MATRIX = re.compile(r"(?:.*\.)?(?:key|value|receptance|gate|output|head)\.weight")
_RESIDUAL = re.compile(r"blocks\.(\d{1,6})\.(?:att\.output|ffn\.value)\.weight")
_VECTOR = re.compile(r"blocks\.\d+\.(?:att|ffn)\.time_(?:mix|maa)_[a-z]")
_DECAY, _BONUS = (re.compile(rf"(blocks\.\d+\.att)\.time_{name}") for name in ("decay", "first"))
#: Added to the name of a matrix of eight bits: minimum and scale of each output, minimum and scale of each input.
_SCALES = ("_mx", "_rx", "_my", "_ry")
_CODES = "uint8"
#: Codes that are decoded at once.
_DECODED_AT_ONCE = 1 << 20

Array: TypeAlias = "npt.NDArray[Any]"


def open_converted(
    file: FileBytes,
    format: str,  # noqa: A002 (the attribute of ParameterSource)
    state: StateDict,
    places: Mapping[str, Place],
) -> TranslatedSource:
    """Open a converted checkpoint as the original one, but for ln0.

    Parameters
    ----------
    file : FileBytes
        Closed with the source.
    format : str
        Name of the format.
    state : StateDict
        The content of the checkpoint.
    places : mapping of str to Place
        Of each storage, by key.

    Raises
    ------
    UnsupportedError
        If an older version of the package converted it.
    FormatError
        If a tensor is damaged, or a matrix of eight bits lacks its scales.
    """
    rescale_layer = _check_settings(file, state.others)
    tensors = {name: _original_orientation(name, tensor) for name, tensor in state.in_file.items()}
    coded = {name for name, tensor in tensors.items() if tensor.element.name == _CODES and f"{name}_mx" in tensors}
    scales = {f"{name}{scale}" for name in coded for scale in _SCALES}
    missing = sorted(scales - set(tensors))
    if missing:
        raise FormatError(f"{file.path}: expected the tensor {missing[0]} of a matrix of eight bits, got none")
    floats = {name: tensor for name, tensor in tensors.items() if tensor.left_out is None}
    placed = place_tensors(file.path, floats, places)
    codes = place_tensors(file.path, {name: tensors[name] for name in coded}, places)
    raw: dict[str, RawTensor] = {}
    for name in tensors:
        if name in coded:
            raw[name] = _coded(file, name, codes[name], [placed[f"{name}{scale}"] for scale in _SCALES])
        elif name in placed and name not in scales:
            raw[name] = placed[name]
    source = _ConvertedSource(
        file,
        format,
        raw,
        state.others,
        checksums(tensors, places),
        {name: what for name, what in state.left_out.items() if name not in coded},
        rescale_layer,
    )
    return TranslatedSource(source, _recipes({name: source.info(name).shape for name in source.names()}))


def _check_settings(file: FileBytes, others: Mapping[str, str]) -> int:
    """Return the number of layers after which the residual stream is halved; 0 for none."""
    version, rescale_layer = others.get("_version", ""), others.get("_rescale_layer", "")
    if not re.fullmatch(r"\d{1,3}(\.\d{1,3})?", version) or float(version) < _OLDEST:
        raise UnsupportedError(
            f"{file.path}: expected a checkpoint as it was trained, or one that the rwkv package converted in version "
            f"{_OLDEST} or later, got one converted in version {version[:40]!r}; name the original file"
        )
    if not re.fullmatch(r"\d{1,6}", rescale_layer):
        raise FormatError(
            f"{file.path}: _rescale_layer: expected an integer, got {rescale_layer[:40]!r}; the file is damaged"
        )
    return int(rescale_layer)


def _original_orientation(name: str, tensor: Tensor) -> Tensor:
    """Return a matrix as (out, in); the package transposes it by its strides alone."""
    if _MATRIX.fullmatch(name) and len(tensor.shape) == len(tensor.strides) == 2:
        return Tensor(tensor.storage, tensor.offset, tensor.shape[::-1], tensor.strides[::-1], tensor.element)
    return tensor


@dataclass(frozen=True)
class _CodedTensor(RawTensor):
    """A matrix of eight bits, and its scales in the order of :data:`_SCALES`."""

    scales: tuple[RawTensor, ...] = ()
    nbytes: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.nbytes


def _coded(file: FileBytes, name: str, codes: RawTensor, scales: list[RawTensor]) -> _CodedTensor:
    """Return a matrix of codes (out, in) with its scales."""
    shape = codes.info.shape
    if len(shape) != 2:
        raise FormatError(f"{file.path}: {name}: expected a matrix of eight bits, got shape {shape}; it is damaged")
    for suffix, scale, size in zip(_SCALES, scales, (shape[0], shape[0], shape[1], shape[1]), strict=True):
        if scale.info.size != size or max(scale.info.shape, default=1) != size or scale.strides is not None:
            raise FormatError(
                f"{file.path}: {name}{suffix}: expected {size} numbers, one after another, "
                f"got shape {scale.info.shape}; the file is damaged"
            )
    nbytes = math.prod(shape) if codes.strides is None else span(shape, codes.strides)
    info = TensorInfo(name, shape, "f32", name, "i8", codes.info.source_nbytes)
    return _CodedTensor(info, codes.offset, codes.strides, codes.data, tuple(scales), nbytes)


class _ConvertedSource(RawSource):
    """The tensors of a converted checkpoint: eight bits decoded to float32, scaled matrices multiplied back."""

    def __init__(
        self,
        file: FileBytes,
        format: str,  # noqa: A002 (the attribute of ParameterSource)
        tensors: Mapping[str, RawTensor],
        metadata: Mapping[str, str],
        checksums: Mapping[str, Place],
        left_out: Mapping[str, str],
        rescale_layer: int,
    ) -> None:
        super().__init__(file, format, tensors, metadata, checksums, left_out)
        self.metadata = {**self.metadata, NORMALIZED_EMBEDDING: "true"}
        self._powers = {
            name: int(match[1]) // rescale_layer
            for name in tensors
            if rescale_layer and (match := _RESIDUAL.fullmatch(name)) and int(match[1]) >= rescale_layer
        }

    def read_into(self, name: str, buffer: Array, start: int = 0) -> None:
        """Fill `buffer` (1-D, of the tensor's array dtype) with elements from `start`, decoded and multiplied back."""
        tensor = self._tensors[name]
        if isinstance(tensor, _CodedTensor):
            check_buffer(tensor.info, buffer, start)
            for done in range(0, buffer.size, _DECODED_AT_ONCE):
                self._decode(tensor, buffer[done : done + _DECODED_AT_ONCE], start + done)
        else:
            super().read_into(name, buffer, start)
        power = self._powers.get(name)
        if power:
            own = tensor.info.dtype
            buffer[:] = to_storage(np.ldexp(widen(buffer, own, "f64"), power), "f64", own)

    def view(self, name: str) -> Array | None:
        """Return the tensor as a read-only array over a memory map, None where it is decoded or multiplied."""
        if name in self._powers or isinstance(self._tensors[name], _CodedTensor):
            return None
        return super().view(name)

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Compare the checksums of a tensor and of its scales."""
        own = super().check_bytes(name, advance)
        tensor = self._tensors[name]
        scales = tensor.scales if isinstance(tensor, _CodedTensor) else ()
        return all([own, *(RawSource.check_bytes(self, scale.info.name, advance) for scale in scales)])

    def checksum(self, name: str) -> int | None:
        """Return the CRC-32 of a tensor's bytes; None where they are decoded or multiplied."""
        if name in self._powers or isinstance(self._tensors[name], _CodedTensor):
            return None
        return super().checksum(name)

    def _decode(self, tensor: _CodedTensor, buffer: Array, start: int) -> None:
        """Decode elements from `start` on: (code + 0.5) ry rx + my + mx, in float32 and in this order."""
        columns = tensor.info.shape[1]
        first, last = start // columns, -(-(start + buffer.size) // columns)
        codes = read_buffer((last - first) * columns, np.uint8)
        self._read(tensor, codes, first * columns)
        outputs = slice(first, last)
        mx, rx = (self._numbers(scale)[outputs, np.newaxis] for scale in tensor.scales[:2])
        my, ry = (self._numbers(scale) for scale in tensor.scales[2:])
        numbers = codes.reshape(-1, columns).astype(np.float32)
        numbers += np.float32(0.5)
        with np.errstate(all="ignore"):  # scales that are infinite or NaN give such weights, which are counted
            for operate, operand in ((np.multiply, ry), (np.multiply, rx), (np.add, my), (np.add, mx)):
                operate(numbers, operand, out=numbers)
        skipped = start - first * columns
        buffer[:] = numbers.reshape(-1)[skipped : skipped + buffer.size]

    def _numbers(self, tensor: RawTensor) -> npt.NDArray[np.float32]:
        """Return a scale of each row or column as float32."""
        stored = read_buffer(tensor.info.size, storage_type(tensor.info.dtype).array_dtype)
        self._read(tensor, stored, 0)
        return to_storage(widen(stored, tensor.info.dtype, "f64"), "f64", "f32")


def _recipes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Recipe]:
    """Return the original tensors by their names there, in the order of `shapes`."""
    heads = any(".att.ln_x." in name for name in shapes)
    dynamic = any(name.endswith(".att.time_maa_x") for name in shapes)
    recipes: dict[str, Recipe] = {}
    for name, shape in shapes.items():
        title, result = name, shape
        operations: tuple[Operation, ...] = ()
        if _VECTOR.fullmatch(name) and len(shape) == 1:
            result = (1, 1, *shape)
        elif _DECAY.fullmatch(name):
            if dynamic:
                result = (1, 1, math.prod(shape))
            else:
                operations = (DOUBLE_EXPONENTIAL.undo if heads else NEGATED_EXPONENTIAL.undo,)
                result = _without_last_ones(shape)
        elif heads and (match := _BONUS.fullmatch(name)):
            title, result = f"{match[1]}.time_faaaa", _without_last_ones(shape)
        recipes[title] = Recipe((Part(name, 0, shape, operations),), result)
    return recipes


def _without_last_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape
