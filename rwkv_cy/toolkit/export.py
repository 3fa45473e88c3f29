"""Export of a model to a file of another program: streamed, in bounded memory, complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.errors import KernelError
from rwkv_cy.files.blocks import Block, Summed, bytes_of
from rwkv_cy.files.buffers import read_buffer
from rwkv_cy.files.folder_replacement import FolderReplacement
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.files.source_hash import SourceHash
from rwkv_cy.files.write_behind import WriteBehind
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.writers.base import BlockCodec, Outcome, ReadTensor, StoredTensor, StoredType, TargetFile
from rwkv_cy.records import asdict, dataclass, replace
from rwkv_cy.runtime import get_num_threads
from rwkv_cy.tensors.checksums import ChecksumPass
from rwkv_cy.tensors.codecs import BLOCK_SIZE
from rwkv_cy.tensors.codecs.base import Array
from rwkv_cy.tensors.converter import Converter, Progress, number_warnings
from rwkv_cy.tensors.parallel import run_jobs
from rwkv_cy.tensors.policy import Target
from rwkv_cy.tensors.rounding import Rounding, describe_rounding, measure_rounding
from rwkv_cy.tensors.statistics import NonFinite
from rwkv_cy.toolkit.export_plan import SHARD_SIZE, ExportPlan, make_export_plan
from rwkv_cy.toolkit.schema_names import named
from rwkv_cy.toolkit.target_path import check_kind, is_model_folder

__all__ = ["ExportReport", "export", "plan_export"]


@dataclass(frozen=True)
class ExportReport:
    """Result of an export.

    Attributes
    ----------
    plan : ExportPlan
        The plan that was carried out.
    size : int
        Bytes of all files.
    source_sha256 : str
        SHA-256 of the concatenated files of the source, in hexadecimal.
    nonfinite : dict of str to NonFinite
        NaN and Inf counts of the source, for each tensor of the target that has any.
    overflowed : dict of str to int
        Finite numbers that became infinite in a narrower type, for each tensor that has any.
    rounding : dict of str to Rounding
        Measured errors of the tensors that were rounded or quantized, where they are not 0.
    """

    plan: ExportPlan
    size: int
    source_sha256: str
    nonfinite: dict[str, NonFinite]
    overflowed: dict[str, int]
    rounding: dict[str, Rounding]

    @property
    def total_rounding(self) -> Rounding | None:
        """The error of all tensors that were rounded; None if every number is the source's."""
        return sum(self.rounding.values(), Rounding()) if self.rounding else None

    @property
    def precision(self) -> str:
        """How exact the target is, in words."""
        tensors = self.plan.tensors
        return describe_rounding(self.rounding, len(tensors), sum(tensor.computed for tensor in tensors))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings, one sentence each: the plan's, then those about NaN, Inf and overflows."""
        return (*self.plan.warnings, *_warnings(self.plan, self.nonfinite, self.overflowed))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        total = self.total_rounding
        fields = {
            "plan": self.plan.to_dict(),
            "size": self.size,
            "source_sha256": self.source_sha256,
            "nonfinite": {name: asdict(counts) for name, counts in self.nonfinite.items()},
            "overflowed": dict(self.overflowed),
            "rounding": {name: error.to_dict() for name, error in self.rounding.items()},
            "precision": self.precision,
            "total_rounding": None if total is None else total.to_dict(),
            "warnings": list(self.warnings),
        }
        return named("export", fields)


def _warnings(plan: ExportPlan, nonfinite: Mapping[str, NonFinite], overflowed: Mapping[str, int]) -> Iterator[str]:
    return number_warnings({tensor.name: tensor.dtype for tensor in plan.tensors}, nonfinite, overflowed)


def plan_export(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    format: str | None = None,  # noqa: A002 (the field's word)
    layout: str | None = None,
    tokenizer: str | None = None,
    shard_size: int = SHARD_SIZE,
) -> ExportPlan:
    """Describe what :func:`export` would do with the same arguments; writes nothing.

    Raises
    ------
    RWKVError
        As raised by :func:`export`, except if the target exists, which sets ``ExportPlan.replaces``.
    """
    with Checkpoint.open(source) as checkpoint:
        plan, _ = make_export_plan(
            checkpoint,
            target,
            dtype=dtype,
            format=format,
            layout=layout,
            tokenizer=tokenizer,
            shard_size=shard_size,
        )
        return plan


def export(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    format: str | None = None,  # noqa: A002 (the field's word)
    layout: str | None = None,
    tokenizer: str | None = None,
    shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
    source_hash: SourceHash | None = None,
) -> ExportReport:
    """Write a model in a format of another program.

    Memory is bounded, whatever the size of the model: by blocks of 1 MiB, and by 16 MiB for a matrix that the source
    stores transposed. The target appears complete or not at all; the source is only read.

    Parameters
    ----------
    source : path
        A model file, or a checkpoint of any format that the package reads.
    target : path
        The file to write, or a folder: a name without a suffix, with a slash at its end, or of a folder that exists.
    dtype : str, optional
        Type of matrices, head and embedding, one of the format's. By default every tensor keeps the numbers that it
        has; weights that are quantized in the source are decoded, and become f16. Vectors, low-rank factors and
        states always keep their type, or become f32 if they are quantized, unless the format has a rule of its own.
    format : str, optional
        Key of :data:`rwkv_cy.formats.writers.EXPORT_FORMATS`; by default the suffix of the target tells.
    layout : str, optional
        Names and shapes of the tensors, where the format has several; by default its first.
    tokenizer : str, optional
        As for :func:`rwkv_cy.convert`; for formats that store one.
    shard_size : int, default 5,000,000,000
        Most bytes of a file of weights, for folders; a larger tensor has a file of its own.
    overwrite : bool, default False
        Whether to replace an existing target: a file of the same format, complete or not, or a folder that holds a
        model and nothing else.
    progress : callable, optional
        Called after each block with the bytes done and the bytes of all tensors in the target.
    source_hash : SourceHash, optional
        A hash that is already running, as for :func:`rwkv_cy.convert`.

    Returns
    -------
    ExportReport

    Raises
    ------
    ConfigError
        If the format, the layout or the type is not known, or the format does not have it, or `shard_size` is not
        positive.
    FormatError, UnsupportedError, SpecError
        If the source is damaged (its checksums are verified, if it has any), or is not a model that this package runs,
        or the layout has no form for its version.
    StorageError
        If the target exists and may not be replaced, if it is the source, if the source changed while it was read, or
        if the operating system refuses: a full disk is noticed before the first tensor is read.
    TokenizerError, MissingDependencyError
        If the requested tokenizer is not available.
    """
    with Checkpoint.open(source) as checkpoint, SourceHash.of(checkpoint.source.files, source_hash) as running:
        plan, tensors = make_export_plan(
            checkpoint,
            target,
            dtype=dtype,
            format=format,
            layout=layout,
            tokenizer=tokenizer,
            shard_size=shard_size,
        )
        if overwrite and not plan.writer.folder:
            check_kind(plan.target, plan.writer)
        converter = Converter(tensors, measure=True)
        reader = _Reader(tensors, converter, plan.stored, progress)
        outcome = _write_all(plan, checkpoint, converter, reader, running, overwrite)
    return ExportReport(
        plan=plan,
        size=sum(file.size for file in plan.files),
        source_sha256=outcome.source_sha256,
        nonfinite=converter.nonfinite,
        overflowed=converter.overflowed,
        rounding=dict(outcome.rounding),
    )


def _write_all(
    plan: ExportPlan,
    checkpoint: Checkpoint,
    converter: Converter,
    reader: _Reader,
    running: SourceHash,
    overwrite: bool,
) -> Outcome:
    """Write all files, and give them their names when everything is known to be right."""
    with ExitStack() as stack:
        folder = None
        if plan.writer.folder:
            folder = stack.enter_context(
                FolderReplacement(plan.target, overwrite=overwrite, replaceable=is_model_folder)
            )

        def create(name: str) -> Replacement:
            if folder is None:
                return stack.enter_context(Replacement(plan.target, overwrite=overwrite))
            shown = folder.name / name
            return stack.enter_context(Replacement(folder.path / name, overwrite=True, name=shown))

        created = [create(file.name) for file in plan.files]
        for file, target in zip(plan.files, created, strict=True):
            target.reserve(file.size)
        with reader.checksums:
            for file, target in zip(plan.files, created, strict=True):
                _write(target, file, reader.read)
            for target in created:
                target.sync_data()
            reader.checksums.finish()
        outcome = Outcome(
            source_name=plan.source.name,
            source_format=plan.source_format,
            source_sha256=running.hexdigest(),
            rounding={name: error for name, error in converter.rounding.items() if error.largest},
            warnings=tuple(_without_folders(plan, converter)),
        )
        for name, data in plan.writer.notes(plan.model, plan.stored, outcome).items():
            created.append(create(name))
            created[-1].reserve(len(data))
            created[-1].write_at(0, data)
        for target in created:
            target.commit(sync_folder=folder is None)
        if folder is not None:
            folder.commit()
    return outcome


def _without_folders(plan: ExportPlan, converter: Converter) -> Iterator[str]:
    """Yield the warnings for people who get the target: they have no use for the folders of this machine."""
    for warning in (*plan.warnings, *_warnings(plan, converter.nonfinite, converter.overflowed)):
        text = warning
        for path in (plan.source, plan.target):
            if path.parent != Path():
                text = text.replace(str(path), path.name)
        yield text


def _write(replaced: Replacement, file: TargetFile, read: ReadTensor) -> None:
    """Write the bytes of a file, whose disk space is reserved."""
    position = 0

    def write(block: Block) -> None:
        nonlocal position
        data = bytes_of(block)
        replaced.write_at(position, data)
        position += len(data)

    with WriteBehind() as behind:
        for block in file.blocks(read):
            behind.submit(partial(write, block))
        behind.wait()
    if position != file.size:
        raise KernelError(f"{replaced.name}: expected {file.size} bytes from the writer, got {position}")


class _Reader:
    """Reads the tensors of an export, converted and encoded.

    Parameters
    ----------
    source : TranslatedSource
        The tensors under their names in the target.
    converter : Converter
        Of `source`.
    stored : sequence of StoredTensor
        All tensors of the target.
    progress : callable, optional

    Attributes
    ----------
    checksums : ChecksumPass
        Over `source`; those of tensors that are copied are compared here.
    """

    def __init__(
        self,
        source: TranslatedSource,
        converter: Converter,
        stored: Sequence[StoredTensor],
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._converter = converter
        self._progress = progress
        self._done, self._total = 0, sum(tensor.nbytes for tensor in stored)
        self.checksums = ChecksumPass(source, {tensor.name for tensor in stored if self._is_copied(tensor)})
        #: Of the last two blocks, reused: new memory costs page faults.
        self._memory = [read_buffer(BLOCK_SIZE * 8, np.uint8) for _ in range(2)]

    def read(self, tensor: StoredTensor) -> Iterable[memoryview] | Summed:
        """Return the stored bytes of a tensor; each part is valid until the one after the next is made.

        The checksum of a tensor that is copied is compared when its last block was written.
        """
        blocks, copied = self._blocks(tensor), tensor.name in self.checksums.copied
        return Summed(blocks, partial(self.checksums.compare, tensor.name)) if copied else blocks

    def _blocks(self, tensor: StoredTensor) -> Iterator[memoryview]:
        stored = tensor.type
        target = Target(replace(self._source.info(tensor.name), dtype=stored.numbers))
        dtype = target.info.codec.array_dtype
        step = max(BLOCK_SIZE // stored.block_size, 1) * stored.block_size
        for start in range(0, tensor.size, step):
            count = min(step, tensor.size - start)
            self._memory.reverse()
            block = self._memory[0][: count * dtype.itemsize].view(dtype)
            self._converter.fill(target, block, start)
            if stored.codec is not None:
                block = self._encode(tensor.name, stored, stored.codec, block)
            yield block.view(np.uint8).data
            self._done += block.nbytes
            if self._progress is not None:
                self._progress(self._done, self._total)

    def _is_copied(self, tensor: StoredTensor) -> bool:
        """Tell whether the bytes of a tensor are those of the source, which has a checksum of them."""
        same = tensor.type.codec is None and tensor.type.numbers == self._source.info(tensor.name).dtype
        return same and self._source.checksum(tensor.name) is not None

    def _encode(self, name: str, stored: StoredType, codec: BlockCodec, numbers: Array) -> Array:
        """Return the encoded blocks of some numbers, and measure their error."""
        blocks = numbers.size // stored.block_size
        result = np.empty((blocks, stored.block_nbytes), np.uint8)
        threads = get_num_threads()
        share = -(-blocks // threads)

        def encode(first: int) -> None:
            part = numbers[first * stored.block_size : (first + share) * stored.block_size]
            encoded = codec.encode(part)
            result[first : first + share] = encoded.reshape(-1, stored.block_nbytes)
            decoded = codec.decode(encoded.reshape(-1)).reshape(-1)
            self._converter.add_rounding(name, measure_rounding(part, stored.numbers, decoded, stored.numbers))

        run_jobs([partial(encode, first) for first in range(0, blocks, share)], threads)
        return result.reshape(-1)
