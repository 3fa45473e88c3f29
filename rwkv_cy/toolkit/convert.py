"""Conversion of any checkpoint to one HDF5 model file, block by block, with the hash of its source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.dtypes import QUANTIZED_TYPES, check_dtype
from rwkv_cy.errors import ConfigError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.reading import new_file_path
from rwkv_cy.files.source_hash import SourceHash
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.storage import write_model
from rwkv_cy.tensors.checksums import ChecksumPass
from rwkv_cy.tensors.codecs import GroupedCodec
from rwkv_cy.tensors.converter import Converter, FileSink, Progress, number_warnings
from rwkv_cy.tensors.feedback import Inputs
from rwkv_cy.tensors.rounding import Rounding
from rwkv_cy.tensors.statistics import NonFinite
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo
from rwkv_cy.toolkit.plan import ConversionPlan, make_plan
from rwkv_cy.toolkit.schema_names import named

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rwkv_cy.toolkit.calibration import Calibration

    #: A text, its tokens, or what was measured with one.
    Calibrating = str | bytes | Sequence[int] | npt.NDArray[np.integer[Any]] | Calibration

__all__ = ["ConversionReport", "convert", "plan_conversion", "quantize", "write_conversion"]


@dataclass(frozen=True)
class ConversionReport:
    """Result of a conversion.

    Attributes
    ----------
    plan : ConversionPlan
        The plan that was carried out.
    size : int
        Bytes of the model file.
    source_sha256 : str
        SHA-256 of the concatenated files of the source, in hexadecimal.
    fingerprint : str
        Of the model in the target, which its states carry.
    nonfinite : dict of str to NonFinite
        NaN and Inf counts of the source, for each tensor that has any.
    overflowed : dict of str to int
        Finite numbers of the source that became infinite in a narrower type, for each tensor that has any.
    rounding : dict of str to Rounding
        Errors of the tensors that were rounded or quantized, where they are not 0; empty unless they were measured.
    """

    plan: ConversionPlan
    size: int
    source_sha256: str
    fingerprint: str
    nonfinite: dict[str, NonFinite]
    overflowed: dict[str, int]
    rounding: dict[str, Rounding]

    @property
    def total_rounding(self) -> Rounding | None:
        """The error of all tensors that were rounded or quantized; None if there are none, or it was not measured."""
        return sum(self.rounding.values(), Rounding()) if self.rounding else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings, one sentence each: the plan's, then those about NaN, Inf and overflows."""
        dtypes = {tensor.name: tensor.dtype for tensor in self.plan.tensors}
        return (*self.plan.warnings, *number_warnings(dtypes, self.nonfinite, self.overflowed))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        total = self.total_rounding
        fields = {
            **asdict(self),
            "plan": self.plan.to_dict(),
            "rounding": {name: error.to_dict() for name, error in self.rounding.items()},
            "total_rounding": None if total is None else total.to_dict(),
            "warnings": list(self.warnings),
        }
        return named("convert", fields)


def plan_conversion(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str | None = None,
    tokenizer: str | None = None,
    *,
    keep: Mapping[str, str | None] | None = None,
    overwrite: bool = False,
    requantize: bool = False,
) -> ConversionPlan:
    """Describe what :func:`convert` would do with the same arguments; writes nothing.

    Reads headers and samples of the weights only, except for ``"bf12"``, where every matrix is read once.

    Raises
    ------
    RWKVError
        As raised by :func:`convert`, except if the target exists and `overwrite` is false, which sets
        ``ConversionPlan.replaces``.
    """
    with Checkpoint.open(source) as checkpoint:
        return make_plan(
            checkpoint, new_file_path(target), dtype, tokenizer, keep=keep, overwrite=overwrite, requantize=requantize
        )


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    keep: Mapping[str, str | None] | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    requantize: bool = False,
    measure: bool = False,
    calibrate: Calibrating | None = None,
    progress: Progress | None = None,
    source_hash: SourceHash | None = None,
) -> ConversionReport:
    """Convert a checkpoint of any supported format into a model file.

    Memory is bounded by a block of a tensor, by sixteen rows of it, or by 32 MiB for a matrix that is stored
    transposed, whatever the size of the model. The target appears complete or not at all; the source is only read.

    Parameters
    ----------
    source : path
        A checkpoint, recognised by its content, a folder of safetensors shards, or a model file to convert to another
        type.
    target : path
        The model file to write.
    dtype : {"f64", "f32", "f16", "bf16", "bf12", "q8", "q6", "q4", "q4n"}, optional
        Storage type of matrices and embedding. By default they keep their types, and become f16 if another program
        quantized them. The embedding is never quantized: with quantized types it stays f16 or bf16 if
        it has that type, and becomes f16 otherwise. ``"bf12"`` is bf16 with matrices compressed, without loss, where
        that saves space. Vectors always keep their types, low-rank factors only if no quantized type is requested:
        beside quantized matrices they are q8, where that takes fewer bytes.
    keep : mapping of str to (str or None), optional
        Other types for matrices, head and embedding whose names match a pattern, as
        ``{"head.weight": "f16", "blocks.0.*": "keep"}``; the last pattern that matches applies. None and ``"keep"``
        stand for the type of the source, which every tensor can keep. Low-rank factors get quantized types so, and
        other types if the source has them quantized.
    tokenizer : str, optional
        ``"auto"`` (the default), ``"none"``, ``"bytes"``, ``"world"``, or the path of a vocabulary, a folder with one,
        a model file or a GGUF file; see
        :func:`rwkv_cy.checkpoint.tokenizer_choice.choose_tokenizer`.
    overwrite : bool, default False
        Whether to replace an existing model file, complete or not. No other file is ever replaced.
    requantize : bool, default False
        Allow quantized types for matrices that are already quantized in another type, which adds a
        second rounding error.
    measure : bool, default False
        Whether to measure the errors of tensors that are rounded or quantized.
    calibrate : str, bytes, sequence of int or Calibration, optional
        A text, or its tokens, that the source reads first. Matrices in q6, q4 and q4n then get the smallest error for
        what they are multiplied with in the text, instead of the smallest error of their weights.
    progress : callable, optional
        Called after each block with the bytes done and the bytes of all tensors in the target.
    source_hash : SourceHash, optional
        A hash that is already running (``SourceHash.ahead``). It is used if it covers exactly the source's files in
        their current state; otherwise it is stopped.

    Returns
    -------
    ConversionReport

    Raises
    ------
    FormatError, UnsupportedError, SpecError
        If the source is damaged (its checksums are verified, if it has any), is of an unknown version, or does not have
        the parameters of a model.
    StorageError
        If the target exists and `overwrite` is false, if it is not a model file, or the source, if the source changed
        while it was read, or if the operating system refuses (no space, no permission).
    ConfigError
        If `dtype` or one in `keep` is not a storage type, a pattern matches nothing, a quantized matrix would be
        requantized without `requantize`, or `calibrate` is given and scales are not searched.
    TokenError
        If the text to calibrate with is empty.
    NumericalError
        If a matrix to quantize has weights that are NaN, infinite, or too large for the type.
    TokenizerError, MissingDependencyError
        If the requested tokenizer is not available.
    """
    source, target = Path(source), new_file_path(target)
    # Hashing takes longest, so that it starts before the plan is made; it is stopped if planning fails.
    with Checkpoint.open(source) as checkpoint, SourceHash.of(checkpoint.source.files, source_hash) as running:
        plan = make_plan(checkpoint, target, dtype, tokenizer, keep=keep, overwrite=overwrite, requantize=requantize)
        inputs = None
        if calibrate is not None:
            calibration = _calibration_of(plan, calibrate, tokenizer)
            inputs = calibration.inputs
            plan = plan.with_origin(calibration=calibration.describe())
        return write_conversion(
            checkpoint.source,
            plan,
            running,
            overwrite=overwrite,
            measure=measure,
            inputs=inputs,
            progress=progress,
        )


def _calibration_of(plan: ConversionPlan, calibrate: Calibrating, tokenizer: str | None) -> Calibration:
    # Imported here, because conversions without it need neither models nor tokenizers.
    from rwkv_cy.toolkit import calibration

    if not any(isinstance(chosen.info.codec, GroupedCodec) and chosen.info.codec.searches for chosen in plan.targets):
        searched = ", ".join(storage.name for storage in QUANTIZED_TYPES.values() if storage.searched)
        raise ConfigError(
            f"calibrate: expected a matrix to quantize to {searched}, whose scales are searched, got none"
        )
    if isinstance(calibrate, calibration.Calibration):
        return calibrate
    own = None if tokenizer in ("auto", "none") else tokenizer
    return calibration.calibrate(plan.source, calibrate, tokenizer=own)


def write_conversion(
    source: ParameterSource,
    plan: ConversionPlan,
    running: SourceHash,
    *,
    overwrite: bool = False,
    measure: bool = False,
    inputs: Mapping[str, Inputs] | None = None,
    progress: Progress | None = None,
) -> ConversionReport:
    """Carry out a plan that was made for `source`, whose hash is `running`; `inputs` are those of a Calibration.

    Raises
    ------
    RWKVError
        As raised by :func:`convert`.
    """
    converter = Converter(source, measure=measure, inputs=inputs)
    sink = FileSink(converter, {chosen.info.name: chosen for chosen in plan.targets}, progress)

    digest: list[str] = []

    def finish() -> dict[str, str]:
        checksums.finish()
        digest.append(running.hexdigest())
        return {"sha256": digest[0], "size": str(running.size)}

    def written(name: str, crc: int) -> None:
        if name in checksums.copied:
            checksums.compare(name, crc)

    infos = [chosen.info for chosen in plan.targets]
    copied = {info.name for info in infos if _is_copied(source, info)}
    with ChecksumPass(source, copied) as checksums:
        write_model(plan.target, plan.header, infos, sink.read, overwrite=overwrite, finish=finish, written=written)
    return ConversionReport(
        plan=plan,
        size=FileIdentity.of(plan.target).size,
        source_sha256=digest[0],
        fingerprint=plan.header.fingerprint,
        nonfinite=converter.nonfinite,
        overflowed=converter.overflowed,
        rounding={name: error for name, error in converter.rounding.items() if error.largest},
    )


def _is_copied(source: ParameterSource, target: TensorInfo) -> bool:
    """Tell whether the bytes of a target are those of the source, which has a checksum of them."""
    info = source.info(target.name)
    same = (info.dtype, info.transposed) == (target.dtype, target.transposed)
    return same and source.checksum(target.name) is not None


def quantize(
    source: str | os.PathLike[str], target: str | os.PathLike[str], dtype: str = "q8", **options: Any
) -> ConversionReport:
    """Convert a checkpoint into a model file whose matrices are quantized.

    Parameters
    ----------
    source, target
        As for :func:`convert`.
    dtype : {"q8", "q6", "q4", "q4n"}, default "q8"
        Type of the matrices and the head.
    **options
        ``keep``, ``tokenizer``, ``overwrite``, ``requantize``, ``measure``, ``calibrate`` and ``progress``, as for
        :func:`convert`.

    Returns
    -------
    ConversionReport

    Raises
    ------
    ConfigError
        If `dtype` does not quantize.
    RWKVError
        As :func:`convert` does.
    """
    dtype = check_dtype(dtype) or ""
    if dtype not in QUANTIZED_TYPES:
        raise ConfigError(f"quantize: expected a dtype of {', '.join(QUANTIZED_TYPES)}, got {dtype!r}; use convert")
    return convert(source, target, dtype=dtype, **options)
