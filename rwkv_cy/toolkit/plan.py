"""The plan of a conversion, made from headers: types, sizes, memory, disk space, tokenizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwkv_cy import __version__
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError
from rwkv_cy.files.reading import os_errors
from rwkv_cy.formats import companions
from rwkv_cy.records import asdict, dataclass, fields, replace
from rwkv_cy.storage import MODEL_KIND, ModelHeader, StoredTokenizer, check_replaceable, needed_bytes
from rwkv_cy.tensors.codecs import BLOCK_SIZE
from rwkv_cy.tensors.policy import Target, Types, choose
from rwkv_cy.tensors.tensor import TensorInfo
from rwkv_cy.tensors.transposing import STRIP_BYTES
from rwkv_cy.toolkit.schema_names import named
from rwkv_cy.toolkit.target_path import check_target, free_space
from rwkv_cy.units import byte_size

__all__ = ["ConversionPlan", "TensorPlan", "make_plan"]

#: The blocks of writer and hash, 1 MiB each, and HDF5's structures; measured at 13 MB for a model of 24 layers.
_FIXED_MEMORY = 16 << 20


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of a conversion.

    Attributes
    ----------
    name : str
        Canonical name.
    shape : tuple of int
    kind : str
        ``"matrix"``, ``"low_rank"``, ``"vector"``, ``"embedding"``, ``"table"``, ``"head"`` or ``"state"``.
    source_dtype : str
        Type in the source file (``"q5_1"``).
    dtype : str
        Storage type in the target.
    source_nbytes, nbytes : int
        Bytes in the source and in the target.
    transposed : bool
        Whether the target stores the transposed matrix.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    source_dtype: str
    dtype: str
    source_nbytes: int
    nbytes: int
    transposed: bool


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion that can be carried out.

    Attributes
    ----------
    source, target : Path
    source_format : str
        ``"pth"``, ``"safetensors"``, ...
    source_files : tuple of Path
        The files with the weights, in the order of hashing; several only for shards.
    config : Config
        Architecture and dimensions.
    tensors : tuple of TensorPlan
        In the order of writing.
    targets : tuple of Target
        Their types and orientations for the converter, in the same order.
    header : ModelHeader
        Header of the target: everything but the parameters.
    memory : int
        Most bytes of working memory that the conversion needs.
    disk_needed, disk_free : int
        Bytes to reserve for the target, which may become smaller, and bytes available in its folder.
    replaces : bool
        Whether the target exists.
    warnings : tuple of str
    """

    source: Path
    target: Path
    source_format: str
    source_files: tuple[Path, ...]
    config: Config
    tensors: tuple[TensorPlan, ...]
    targets: tuple[Target, ...]
    header: ModelHeader
    memory: int
    disk_needed: int
    disk_free: int
    replaces: bool
    warnings: tuple[str, ...]

    @property
    def tokenizer(self) -> StoredTokenizer | None:
        """The tokenizer that is stored in the target."""
        return self.header.tokenizer

    @property
    def num_parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def source_nbytes(self) -> int:
        """Bytes of all tensors in the source."""
        return sum(tensor.source_nbytes for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the target."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def with_origin(self, **further: str) -> ConversionPlan:
        """Return the plan of a file that records more about where its numbers come from."""
        header = replace(self.header, source={**self.header.source, **further})
        needed = needed_bytes(header, [chosen.info for chosen in self.targets])
        return replace(self, header=header, disk_needed=needed)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        plain = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("targets", "header")
        }
        values = {
            **plain,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "source": str(self.source),
            "target": str(self.target),
            "source_files": [str(path) for path in self.source_files],
            "config": self.config.to_dict(),
            "tokenizer": describe_tokenizer(self.tokenizer),
            "num_parameters": self.num_parameters,
            "source_nbytes": self.source_nbytes,
            "nbytes": self.nbytes,
        }
        return named("convert-plan", values)


def make_plan(
    checkpoint: Checkpoint,
    target: Path,
    dtype: str | None,
    tokenizer: str | None,
    *,
    keep: Mapping[str, str | None] | None = None,
    overwrite: bool = False,
    requantize: bool = False,
) -> ConversionPlan:
    """Plan the conversion of an open checkpoint into the file `target`.

    Writes nothing, and reads only the samples of the weights that the fingerprint needs, except if a codec needs a plan
    (bf12). The options are those of :func:`rwkv_cy.toolkit.convert.convert`.

    Raises
    ------
    UnsupportedError, SpecError
        If the source is not a model of a version that this package runs, or does not have that version's parameters.
    ConfigError
        If `dtype` is not a storage type, or a quantized matrix would be requantized without `requantize`.
    TokenizerError, MissingDependencyError
        If the requested tokenizer is not available.
    StorageError
        If the target is the source itself, a folder, or in a folder that does not exist; with `overwrite`, if it is
        a file of another kind than a model file.
    """
    types = Types.of(dtype, keep or {})
    dtype = types.default
    source = checkpoint.source
    files = tuple(file.path for file in source.files)
    with os_errors(target, "look at"):
        replaces = check_target(target, {*files, source.path, *companions(source.path)})
    if overwrite:
        check_replaceable(target, MODEL_KIND, "are source and target swapped?")
    config = checkpoint.config
    if dtype is not None:
        config = replace(config, compute_dtype="f64" if dtype == "f64" else "f32")
    types.check(source, checkpoint.specs)
    tensors, targets, twice = [], [], []
    memory = 0
    for spec in checkpoint.specs:
        info = source.info(spec.name)
        chosen = choose(source, spec, types.choose(spec.name))
        stored = chosen.info
        tensors.append(
            TensorPlan(
                name=spec.name,
                shape=info.shape,
                kind=spec.kind,
                source_dtype=info.source_dtype,
                dtype=stored.dtype,
                source_nbytes=info.source_nbytes,
                nbytes=stored.nbytes,
                transposed=stored.transposed,
            )
        )
        targets.append(chosen)
        memory = max(memory, _block_memory(info, chosen))
        if info.rounds_twice(stored.dtype):
            twice.append((info.source_dtype, stored.dtype))
    if twice and not requantize:
        types_before = ", ".join(sorted({before for before, _ in twice}))
        raise ConfigError(
            f"{source.path} is already quantized ({len(twice)} matrices in {types_before}); convert "
            "the original, or force it (--force, requantize=True)"
        )
    stored_tokenizer, about_tokenizer = checkpoint.choose_tokenizer(tokenizer)
    warnings = (*checkpoint.warnings, *about_tokenizer)
    if twice:
        types_after = ", ".join(sorted({after for _, after in twice}))
        warnings += (f"{source.path}: {len(twice)} quantized matrices are rounded a second time, to {types_after}",)
    header = ModelHeader(
        architecture=config.architecture,
        config=config.to_dict(),
        fingerprint=checkpoint.fingerprint,
        tokenizer=stored_tokenizer,
        source={"name": source.path.name, "format": source.format},
        created_by=f"rwkv-cy {__version__}",
    )
    needed = needed_bytes(header, [chosen.info for chosen in targets])
    free = free_space(target.parent)
    if needed > free:
        warnings += (f"{target}: not enough disk space: need {byte_size(needed)}, {byte_size(free)} free",)
    return ConversionPlan(
        source=source.path,
        target=target,
        source_format=source.format,
        source_files=files,
        config=config,
        tensors=tuple(tensors),
        targets=tuple(targets),
        header=header,
        memory=_FIXED_MEMORY + memory,
        disk_needed=needed,
        disk_free=free,
        replaces=replaces,
        warnings=warnings,
    )


def _block_memory(info: TensorInfo, target: Target) -> int:
    """Return the bytes of memory that one block needs while it is read, counted, widened and rounded.

    Encoding by groups of rows needs parts of two more groups; transposing briefly needs two strips.
    """
    source, stored = info.codec, target.info.codec
    group = stored.row_group * info.array_shape[0] * source.array_dtype.itemsize
    strips = 2 * min(max(STRIP_BYTES, group), info.nbytes) if info.transposed != target.info.transposed else 0
    planned = 0 if target.plan is None else target.plan.working_bytes
    grouped = source.matrices_only or stored.matrices_only
    columns = max(info.shape[-1], target.info.encoded_shape[-1])
    group = max(source.row_group, stored.row_group) * columns if grouped else 0
    wide = 0 if info.dtype == target.info.dtype else 16
    itemsizes = 2 * source.array_dtype.itemsize + wide + stored.array_dtype.itemsize
    return min(BLOCK_SIZE + 2 * group, info.size + group) * itemsizes + 2 * group + strips + planned
