"""The policy of storage types: which tensor gets which type and orientation, for ``load`` and ``convert`` alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from rwkv_cy.dtypes import to_storage
from rwkv_cy.tensors.codecs import CODECS, Plan, PlannedCodec
from rwkv_cy.tensors.reading import number_type, read_blocks
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["Storable", "Target", "choose", "choose_all", "may_be_transposed", "present"]

#: Type of tensors that another program quantized, where none is requested.
_FOR_DECODED = "f16"


class Storable(Protocol):
    """What the policy looks at of a parameter: a :class:`~rwkv_cy.architectures.base.ParameterSpec` has it."""

    @property
    def name(self) -> str:
        """Canonical name."""
        ...

    @property
    def kind(self) -> str:
        """``"matrix"``, ``"low_rank"``, ``"vector"``, ``"embedding"``, ``"head"`` or ``"state"``."""
        ...

    @property
    def converted(self) -> bool:
        """Whether it gets the requested type, rather than keeping its own."""
        ...

    @property
    def quantizable(self) -> bool:
        """Whether it may be stored in a type of matrices."""
        ...

    @property
    def stored_transposed(self) -> bool:
        """Whether the kernels read the transposed array faster."""
        ...


Spec = TypeVar("Spec", bound=Storable)


@dataclass(frozen=True)
class Target:
    """How a tensor is stored in the target.

    Attributes
    ----------
    info : TensorInfo
        The tensor of the source, with the type and orientation that it gets. Equal to the source's where nothing
        changes.
    plan : Plan or None
        Of a codec that plans.
    """

    info: TensorInfo
    plan: Plan | None = None


def may_be_transposed(spec: Storable) -> bool:
    """Tell whether a parameter may be stored transposed: everything that is multiplied as a matrix."""
    return spec.quantizable or spec.kind == "low_rank"


def present(source: ParameterSource, specs: Iterable[Spec]) -> Iterator[Spec]:
    """Yield the parameters that the source has: optional ones may be missing."""
    names = set(source.names())
    return (spec for spec in specs if spec.name in names)


def choose(source: ParameterSource, spec: Storable, dtype: str | None, *, keep_orientation: bool = False) -> Target:
    """Choose type and orientation of one tensor.

    Vectors, low-rank factors and states keep the checkpoint's type: they are small, and some lose their meaning in few
    bits. Matrices, head and embedding get `dtype`. An embedding is read row by row, and types of matrices encode groups
    of rows, so it gets a 16-bit type beside them.

    Parameters
    ----------
    source : ParameterSource
        Read once where the codec of `dtype` has to plan.
    spec : Storable
    dtype : str or None
        The requested storage type; None keeps that of the checkpoint, or f16 where another program quantized it.
    keep_orientation : bool, default False
        Keep the orientation of a tensor whose type stays, so that it can be used where it is stored. Low-rank factors
        are oriented all the same: they are small, and their kernels need it.
    """
    info = source.info(spec.name)
    stored = _storage_type(info, spec, dtype)
    codec = CODECS[stored]
    plain = not (info.codec.matrices_only or codec.matrices_only)
    transposed = plain and spec.stored_transposed and len(info.shape) == 2
    plan = None
    if isinstance(codec, PlannedCodec) and stored != info.dtype:
        # A matrix that is stored transposed is read in part, which saves more than compressing all of it.
        transposed = spec.stored_transposed and not info.codec.matrices_only
        if not transposed:
            blocks = (to_storage(block, number_type(info), codec.numbers) for block in read_blocks(source, info))
            plan = codec.plan(blocks, info.shape)
        if plan is None:
            stored = codec.plain_types[0]
    if keep_orientation and stored == info.dtype and dtype in (None, stored) and spec.kind != "low_rank":
        transposed = info.transposed
    target = replace(info, dtype=stored, transposed=transposed)
    return Target(target if plan is None else replace(target, encoded_nbytes=plan.nbytes), plan)


def choose_all(
    source: ParameterSource, specs: Iterable[Storable], dtype: str | None, *, keep_orientation: bool = False
) -> Mapping[str, Target]:
    """Choose type and orientation of each parameter that the source has, in the order of `specs`."""
    return {
        spec.name: choose(source, spec, dtype, keep_orientation=keep_orientation) for spec in present(source, specs)
    }


def _storage_type(info: TensorInfo, spec: Storable, dtype: str | None) -> str:
    if not spec.converted:
        return info.dtype
    if dtype is None:
        return _FOR_DECODED if info.decoded else info.dtype
    codec = CODECS[dtype]
    if codec.matrices_only and not spec.quantizable:
        return info.dtype if info.dtype in codec.plain_types and not info.decoded else codec.plain_types[0]
    return dtype
