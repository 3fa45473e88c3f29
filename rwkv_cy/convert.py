"""Conversion: any checkpoint into one HDF5 model file, block by block, with the hash of what it came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy import __version__
from rwkv_cy.blocks import BLOCK_SIZE, NonFinite, count_nonfinite
from rwkv_cy.conversion_plan import ConversionPlan, TensorPlan, make_plan
from rwkv_cy.dtypes import storage_type, to_storage
from rwkv_cy.files import FileIdentity
from rwkv_cy.parameters import ParameterSource, TensorInfo
from rwkv_cy.source_file import SourceHash
from rwkv_cy.sources import open_source, source_fingerprint
from rwkv_cy.storage import ModelHeader, write_model

__all__ = ["ConversionReport", "convert", "plan_conversion"]

#: Told the bytes done and the bytes of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes
    ----------
    plan : ConversionPlan
        What it set out to do.
    size : int
        Bytes of the file that it wrote.
    source_sha256 : str
        SHA-256 of all bytes of the source's files, one after the other, in hexadecimal.
    fingerprint : str
        Of the model in the target; states carry it.
    nonfinite : dict of str to NonFinite
        NaN and infinities of the source, for each tensor that has any.
    overflowed : dict of str to int
        Finite numbers of the source that became infinite in a narrower type, for each tensor that has any.
    """

    plan: ConversionPlan
    size: int
    source_sha256: str
    fingerprint: str
    nonfinite: dict[str, NonFinite]
    overflowed: dict[str, int]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, a sentence each: the plan's warnings, then those of the numbers."""
        dtypes = {tensor.name: tensor.dtype for tensor in self.plan.tensors}
        bad = (
            f"{name}: {found.nan} NaN and {found.inf} infinite numbers in the source, which stay so"
            for name, found in self.nonfinite.items()
        )
        lost = (
            f"{name}: {count} too large for {dtypes[name]}, now infinite; convert to a type with more range"
            for name, count in self.overflowed.items()
        )
        return (*self.plan.warnings, *bad, *lost)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return {**asdict(self), "plan": self.plan.to_dict(), "warnings": list(self.warnings)}


def plan_conversion(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None = None,
    tokenizer: str | None = None,
) -> ConversionPlan:
    """Say what :func:`convert` would do with the same arguments; reads headers only and writes nothing.

    Raises
    ------
    RWKVError
        As :func:`convert` does, except for a target that exists: that is told by ``ConversionPlan.replaces``.
    """
    with open_source(Path(source)) as opened:
        return make_plan(opened, Path(target), dtype, tokenizer)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert a checkpoint of any supported format into a model file.

    Memory is bounded by a block of a tensor, whatever the size of the model. The target appears complete or not at
    all; the source is only read.

    Parameters
    ----------
    source : path
        A checkpoint, recognised by its content; or a folder of safetensors shards; or a model file, to store it in
        another type.
    target : path
        The model file to write.
    dtype : {"f64", "f32", "f16", "bf16"}, optional
        Storage type of matrices and embedding. By default as the checkpoint has them, and f16 for a quantized one.
        Vectors always stay as the checkpoint has them.
    tokenizer : str, optional
        ``"auto"`` (the default), ``"none"``, ``"bytes"``, ``"world"``, or the path of a vocabulary, as
        :func:`rwkv_cy.tokenizer_choice.choose_tokenizer` has it.
    overwrite : bool, default False
        Replace a file at the target.
    progress : callable, optional
        Called after each block with the bytes done and the bytes of all tensors in the target.

    Returns
    -------
    ConversionReport

    Raises
    ------
    FormatError, UnsupportedError, SpecError
        If the source is damaged, of an unknown version, or its parameters are not a model's.
    StorageError
        If the target exists and `overwrite` is false, if it is the source, if the source changed while it was read,
        or if the operating system refuses (no space, no permission).
    ConfigError
        If `dtype` is no storage type.
    TokenizerError, MissingDependencyError
        If the tokenizer asked for cannot be had.
    """
    source, target = Path(source), Path(target)
    # Hashing takes longest: it begins before the plan is made, and is given up if that fails.
    with open_source(source) as opened, SourceHash(opened.files) as source_hash:
        plan = make_plan(opened, target, dtype, tokenizer)
        transfer = _Transfer(opened, plan.nbytes, progress)
        wanted = [_target_info(opened.info(tensor.name), tensor) for tensor in plan.tensors]
        header = _header(plan, source_fingerprint(opened))

        digest: list[str] = []

        def finish() -> dict[str, str]:
            digest.append(source_hash.hexdigest())
            return {"sha256": digest[0], "size": str(source_hash.size)}

        write_model(target, header, wanted, transfer.read, overwrite=overwrite, finish=finish)
    return ConversionReport(
        plan=plan,
        size=FileIdentity.of(target).size,
        source_sha256=digest[0],
        fingerprint=header.fingerprint,
        nonfinite=transfer.nonfinite,
        overflowed=transfer.overflowed,
    )


def _target_info(info: TensorInfo, tensor: TensorPlan) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.shape, tensor.dtype, info.source_name, info.source_dtype, info.source_nbytes)


def _header(plan: ConversionPlan, mark: str) -> ModelHeader:
    return ModelHeader(
        architecture=plan.config.architecture,
        config=plan.config.to_dict(),
        fingerprint=mark,
        tokenizer=plan.tokenizer,
        source={"name": plan.source.name, "format": plan.source_format},
        created_by=f"rwkv-cy {__version__}",
    )


class _Transfer:
    """Reads blocks of the source in the target's types, and keeps account of what is not a number."""

    def __init__(self, source: ParameterSource, total: int, progress: Progress | None) -> None:
        self.nonfinite: dict[str, NonFinite] = {}
        self.overflowed: dict[str, int] = {}
        self._source = source
        self._total = total
        self._progress = progress
        self._done = 0
        self._result = np.empty(0, np.uint8)

    def read(self, target: TensorInfo, start: int, count: int) -> npt.NDArray[Any]:
        """Return `count` elements of a tensor from `start`, in the target's storage type.

        The array is valid until the next call: its memory is used again, which saves the page faults of new memory.
        """
        info = self._source.info(target.name)
        wanted = storage_type(target.dtype)
        if self._result.nbytes < count * wanted.itemsize:
            self._result = np.empty(count * wanted.itemsize, np.uint8)
        result = self._result[: count * wanted.itemsize].view(wanted.array_dtype)
        for first in range(0, count, BLOCK_SIZE):
            self._read_block(info, target.dtype, start + first, result[first : first + BLOCK_SIZE])
        self._done += result.nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)
        return result

    def _read_block(self, info: TensorInfo, dtype: str, start: int, result: npt.NDArray[Any]) -> None:
        """Fill `result`, of storage type `dtype`, with elements from `start`."""
        block = result if info.dtype == dtype else np.empty(result.size, storage_type(info.dtype).array_dtype)
        self._source.read_into(info.name, block, start)
        found = count_nonfinite(block, info.dtype)
        if found:
            self.nonfinite[info.name] = self.nonfinite.get(info.name, NonFinite()) + found
        if block is result:
            return
        result[:] = to_storage(block, info.dtype, dtype)
        if dtype in storage_type(info.dtype).lossless_in:
            return
        lost = count_nonfinite(result, dtype).inf - found.inf
        if lost:
            self.overflowed[info.name] = self.overflowed.get(info.name, 0) + lost
