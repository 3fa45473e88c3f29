"""The policy of storage types: which tensor gets which type and orientation, for ``load`` and ``convert`` alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

from rwkv_cy.dtypes import check_dtype, to_storage
from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass, replace
from rwkv_cy.tensors.codecs import CODECS, Plan, PlannedCodec
from rwkv_cy.tensors.reading import number_type, read_blocks
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = [
    "Storable",
    "Target",
    "Types",
    "choose",
    "choose_all",
    "may_be_stored_as",
    "may_be_transposed",
    "plain_type",
    "present",
]

#: Default type of tensors that another program quantized.
_FOR_DECODED = "f16"
#: Kind of the low-rank factors.
_FACTOR = "low_rank"


class Storable(Protocol):
    """Properties of a parameter that the policy uses; :class:`~rwkv_cy.architectures.base.ParameterSpec` has them."""

    @property
    def name(self) -> str:
        """Canonical name."""
        ...

    @property
    def kind(self) -> str:
        """``"matrix"``, ``"low_rank"``, ``"vector"``, ``"embedding"``, ``"table"``, ``"head"`` or ``"state"``."""
        ...

    @property
    def converted(self) -> bool:
        """Whether it is converted to the requested type instead of keeping its own."""
        ...

    @property
    def quantizable(self) -> bool:
        """Whether it may be stored in a quantized or compressed type."""
        ...

    @property
    def stored_transposed(self) -> bool:
        """Whether the kernels read it faster if it is transposed."""
        ...


Spec = TypeVar("Spec", bound=Storable)


@dataclass(frozen=True)
class Types:
    """The requested storage types: one for all tensors, and others for names that match a pattern.

    Attributes
    ----------
    default : str or None
        As for :func:`choose`.
    rules : tuple of (str, str or None)
        Patterns, as ``"blocks.0.*"``, and the type of the tensors that match; the last that matches applies.
    """

    default: str | None
    rules: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def of(cls, dtype: str | None, rules: Mapping[str, str | None]) -> Types:
        """Return the requested types under our names for them; ``"keep"`` stands for None.

        Raises
        ------
        ConfigError
            If one is not a storage type.
        """
        return cls(
            check_dtype(dtype), tuple((name, None if t == "keep" else check_dtype(t)) for name, t in rules.items())
        )

    def choose(self, name: str) -> str | None:
        """Return the requested type of the tensor `name`."""
        matching = (dtype for pattern, dtype in reversed(self.rules) if fnmatchcase(name, pattern))
        return next(matching, self.default)

    def check(self, source: ParameterSource, specs: Iterable[Storable]) -> None:
        """Raise ConfigError if a pattern does not match any tensor of the source that its type applies to.

        What a source holds can be kept, so that ``"keep"`` applies to every tensor.
        """
        present = tuple(specs)
        for pattern, dtype in self.rules:
            matching = (spec for spec in present if fnmatchcase(spec.name, pattern))
            if not any(dtype is None or _applies(source.info(spec.name), spec, dtype) for spec in matching):
                names = [spec.name for spec in present if spec.converted]
                raise ConfigError(
                    f"keep: expected a pattern that matches a matrix, the head or the embedding of {source.path}, "
                    f"got {pattern!r}; names are such as {', '.join(names[:2])}; vectors keep their type, and so do "
                    "low-rank factors unless they are quantized, which 'keep' prevents"
                )


@dataclass(frozen=True)
class Target:
    """How a tensor is stored in the target.

    Attributes
    ----------
    info : TensorInfo
        The tensor with its type and orientation in the target; equal to the source's if nothing changes.
    plan : Plan or None
        The plan, for a codec that needs one.
    """

    info: TensorInfo
    plan: Plan | None = None


def may_be_transposed(spec: Storable) -> bool:
    """Tell whether a parameter may be stored transposed; true for everything that is multiplied as a matrix."""
    return spec.quantizable or spec.kind == _FACTOR


def may_be_stored_as(spec: Storable, dtype: str, *, transposed: bool) -> bool:
    """Tell whether kernels take a parameter in that type and orientation.

    They take a low-rank factor that is quantized as the rows of its transpose, and any other matrix in a type of
    matrices as its own rows.
    """
    codec = CODECS[dtype]
    if not codec.matrices_only:
        return not transposed or may_be_transposed(spec)
    if spec.kind == _FACTOR:
        return transposed and codec.factor_type is not None
    return spec.quantizable and not transposed


def present(source: ParameterSource, specs: Iterable[Spec]) -> Iterator[Spec]:
    """Yield the specs of the parameters that the source has; optional ones may be missing."""
    names = set(source.names())
    return (spec for spec in specs if spec.name in names)


def choose(source: ParameterSource, spec: Storable, dtype: str | None, *, keep_orientation: bool = False) -> Target:
    """Choose type and orientation of one tensor.

    Vectors and states keep the checkpoint's type, because they are small and some need the precision; tables do,
    because their rows are read from the file as it is. Matrices, head and embedding get `dtype`. An embedding is read
    row by row, while quantized and compressed types encode groups of rows; with such a `dtype` it gets a 16-bit type.
    Low-rank factors get the codec's `factor_type`, where that takes fewer bytes, and keep their type otherwise.

    Parameters
    ----------
    source : ParameterSource
        Read once if the codec of `dtype` needs a plan.
    spec : Storable
    dtype : str or None
        The requested storage type. None keeps that of the checkpoint, or f16 if another program quantized it.
    keep_orientation : bool, default False
        Keep the orientation of a tensor whose type does not change, so that it can be mapped. Does not apply to
        low-rank factors, which are small and whose kernels need one orientation.
    """
    info = source.info(spec.name)
    stored = _factor_type(info, spec, dtype) if spec.kind == _FACTOR else _storage_type(info, spec, dtype)
    codec = CODECS[stored]
    if stored == info.dtype and codec.matrices_only:
        return Target(info)
    either = spec.kind == _FACTOR or not (info.codec.matrices_only or codec.matrices_only)
    transposed = either and spec.stored_transposed and len(info.shape) == 2
    plan = None
    if isinstance(codec, PlannedCodec) and stored != info.dtype:
        # Only a part of a transposed matrix is read, which saves more than compression would.
        transposed = spec.stored_transposed and not info.codec.matrices_only
        if not transposed:
            blocks = (to_storage(block, number_type(info), codec.numbers) for block in read_blocks(source, info))
            plan = codec.plan(blocks, info.shape)
        if plan is None:
            stored = codec.plain_types[0]
    if keep_orientation and stored == info.dtype and dtype in (None, stored) and spec.kind != _FACTOR:
        transposed = info.transposed
    if (stored, transposed) == (info.dtype, info.transposed):  # as nearly always: a copy of thousands takes a while
        return Target(info)
    target = replace(info, dtype=stored, transposed=transposed)
    return Target(target if plan is None else replace(target, encoded_nbytes=plan.nbytes), plan)


def choose_all(
    source: ParameterSource, specs: Iterable[Storable], dtype: str | None, *, keep_orientation: bool = False
) -> Mapping[str, Target]:
    """Choose type and orientation of each parameter that the source has, in the order of `specs`."""
    return {
        spec.name: choose(source, spec, dtype, keep_orientation=keep_orientation) for spec in present(source, specs)
    }


def plain_type(info: TensorInfo, spec: Storable, dtype: str | None) -> str:
    """Choose the floating point type of one tensor for a format that has no other types.

    Matrices, head and embedding get `dtype`; everything else keeps the numbers of the checkpoint.

    Parameters
    ----------
    info : TensorInfo
        The tensor, as the source describes it.
    spec : Storable
    dtype : str or None
        A floating point type. None keeps the numbers of the checkpoint; weights that are quantized become f16.
    """
    numbers = number_type(info)
    if not spec.converted:
        return numbers
    if dtype is not None:
        return dtype
    return _FOR_DECODED if info.decoded or info.codec.requantizes else numbers


def _applies(info: TensorInfo, spec: Storable, dtype: str) -> bool:
    """Tell whether a tensor of the source can get a requested type: low-rank factors of floats can get few."""
    if spec.kind != _FACTOR:
        return spec.converted
    return info.dtype == dtype or info.codec.matrices_only or CODECS[dtype].factor_type is not None


def _factor_type(info: TensorInfo, spec: Storable, dtype: str | None) -> str:
    if dtype is None:
        return info.dtype
    codec = CODECS[dtype]
    if info.codec.matrices_only:
        return info.dtype if codec.factor_type is not None else (*codec.plain_types, dtype)[0]
    chosen = codec.factor_type
    if chosen is None or not spec.stored_transposed or len(info.shape) != 2:
        return info.dtype
    nbytes = math.prod(CODECS[chosen].array_shape(info.shape[::-1])) * CODECS[chosen].itemsize
    return chosen if nbytes < info.nbytes else info.dtype


def _storage_type(info: TensorInfo, spec: Storable, dtype: str | None) -> str:
    if not spec.converted:
        return info.dtype
    if dtype is None:
        return _FOR_DECODED if info.decoded else info.dtype
    codec = CODECS[dtype]
    if codec.matrices_only and not spec.quantizable:
        return info.dtype if info.dtype in codec.plain_types and not info.decoded else codec.plain_types[0]
    return dtype
