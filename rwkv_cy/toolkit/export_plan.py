"""The plan of an export, made from headers: format, layout, names, types, sizes, disk space."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rwkv_cy.architectures import architecture_of, version_label
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer
from rwkv_cy.dtype_names import canonical_name
from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import ConfigError, UnsupportedError
from rwkv_cy.files.reading import new_file_path, os_errors
from rwkv_cy.formats import companions
from rwkv_cy.formats.layouts import export_layout
from rwkv_cy.formats.layouts.layout import Layout, Recipe, Shapes
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.formats.writers import EXPORT_FORMATS, format_of
from rwkv_cy.formats.writers.base import (
    NOTES_BYTES,
    ExportedModel,
    ExportFormat,
    ExportTensor,
    StoredTensor,
    TargetFile,
    Vocabulary,
)
from rwkv_cy.records import dataclass
from rwkv_cy.storage import StoredTokenizer
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.tensors.policy import plain_type
from rwkv_cy.text.tokenizers import load_tokenizer, published_text
from rwkv_cy.toolkit.schema_names import named
from rwkv_cy.toolkit.target_path import check_folder, check_target, free_space
from rwkv_cy.units import byte_size

__all__ = ["SHARD_SIZE", "ExportPlan", "ExportedTensor", "make_export_plan"]

#: Most bytes of a file of weights in a folder, by default: what transformers writes.
SHARD_SIZE = 5_000_000_000


@dataclass(frozen=True)
class ExportedTensor:
    """One tensor of an export.

    Attributes
    ----------
    name : str
        In the target.
    parameters : tuple of str
        Canonical names of the parameters that it is made of.
    shape : tuple of int
        In the target.
    kind : str
        Of the parameters: ``"matrix"``, ``"low_rank"``, ``"vector"``, ``"embedding"``, ``"head"`` or ``"state"``.
    source_dtype : str
        Type in the source.
    dtype : str
        Type in the target, as the format calls it.
    nbytes : int
        Bytes in the target.
    computed : bool
        Whether the numbers are computed from those of the source, so that the way back rounds.
    """

    name: str
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str
    source_dtype: str
    dtype: str
    nbytes: int
    computed: bool


@dataclass(frozen=True)
class ExportPlan:
    """An export that can be carried out.

    Attributes
    ----------
    source, target : Path
    source_format : str
    format, layout : str
        Keys of the format and of the layout.
    model : ExportedModel
        What the format knows of it.
    tensors : tuple of ExportedTensor
        In the order of the architecture's parameters.
    stored : tuple of StoredTensor
        The same tensors for the writer.
    files : tuple of TargetFile
    tokenizer : StoredTokenizer or None
        What the format may store of it.
    disk_needed, disk_free : int
        Bytes of the files, and bytes available in the folder of the target.
    replaces : bool
        Whether the target exists.
    warnings : tuple of str
    """

    source: Path
    target: Path
    source_format: str
    format: str
    layout: str
    model: ExportedModel
    tensors: tuple[ExportedTensor, ...]
    stored: tuple[StoredTensor, ...]
    files: tuple[TargetFile, ...]
    tokenizer: StoredTokenizer | None
    disk_needed: int
    disk_free: int
    replaces: bool
    warnings: tuple[str, ...]

    @property
    def writer(self) -> ExportFormat:
        """The format."""
        return EXPORT_FORMATS[self.format]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the target."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        fields = {
            "source": str(self.source),
            "target": str(self.target),
            "source_format": self.source_format,
            "format": self.format,
            "layout": self.layout,
            "config": self.model.config.to_dict(),
            "tensors": [vars(tensor) for tensor in self.tensors],
            "files": [{"name": file.name or self.target.name, "size": file.size} for file in self.files],
            "tokenizer": describe_tokenizer(self.tokenizer),
            "nbytes": self.nbytes,
            "disk_needed": self.disk_needed,
            "disk_free": self.disk_free,
            "replaces": self.replaces,
            "warnings": list(self.warnings),
        }
        return named("export-plan", fields)


def make_export_plan(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    format: str | None = None,  # noqa: A002 (the public option)
    layout: str | None = None,
    tokenizer: str | None = None,
    shard_size: int = SHARD_SIZE,
) -> tuple[ExportPlan, TranslatedSource]:
    """Plan the export of an open checkpoint; writes nothing, and reads headers only.

    The options are those of :func:`rwkv_cy.toolkit.export.export`.

    Returns
    -------
    plan : ExportPlan
    tensors : TranslatedSource
        The tensors under their names and in their shapes in the target.

    Raises
    ------
    ConfigError
        If the format, the layout or the type is not known, or the format does not have it, or `shard_size` is not
        positive.
    UnsupportedError, SpecError
        If the source is not a model that this package runs, or the layout has no form for its version.
    StorageError
        If the target is the source itself, or cannot be written.
    TokenizerError, MissingDependencyError
        If the requested tokenizer is not available.
    """
    writer = format_of(target, format)
    target = Path(target) if writer.folder else new_file_path(target)
    if not isinstance(shard_size, int) or shard_size < 1:
        raise ConfigError(f"shard_size: expected a positive number of bytes, got {shard_size!r}")
    layout = _check_layout(writer, layout)
    dtype = _check_type(writer, dtype)
    source = checkpoint.source
    with os_errors(target, "look at"):
        sources = {*(file.path for file in source.files), source.path, *companions(source.path)}
        replaces = (check_folder if writer.folder else check_target)(target, sources)
    config = checkpoint.config
    if not config.embedding_norm:
        raise UnsupportedError(
            f"{source.path}: expected a model with ln0, got one whose embedding is stored normalized, which no other "
            "program can read; export the original checkpoint"
        )
    specs = {spec.name: spec for spec in checkpoint.specs}
    label = architecture_of(config).label
    shapes = {name: spec.shape for name, spec in specs.items()}
    table = export_layout(layout, shapes, label)
    recipes = table.apply(shapes)
    translated = TranslatedSource(PlainSource(source), recipes)
    drafts = tuple(_drafts(checkpoint, translated, recipes, specs, dtype))
    stored = tuple(StoredTensor(draft.name, draft.shape, draft.kind, writer.store(draft, dtype)) for draft in drafts)
    stored_tokenizer, warnings = checkpoint.choose_tokenizer(tokenizer if writer.stores_tokenizer else "none")
    if tokenizer not in (None, "auto", "none") and not writer.stores_tokenizer:
        warnings = (*warnings, f"tokenizer {tokenizer}: not stored, since {writer.label} has no place for one")
    model = ExportedModel(
        config=config,
        label=label,
        name=source.path.stem,
        layout=table,
        shapes=shapes,
        vocabulary=_vocabulary(stored_tokenizer),
        shard_size=shard_size,
    )
    files = tuple(writer.files(model, stored))
    warnings += tuple(
        f"{target}: the code of {table.project} for {table.versions} {problem}" for problem in writer.problems(model)
    )
    tensors = tuple(
        ExportedTensor(
            name=tensor.name,
            parameters=tuple(part.name for part in recipes[tensor.name].parts),
            shape=tensor.shape,
            kind=tensor.kind,
            source_dtype=source.info(recipes[tensor.name].parts[0].name).source_dtype,
            dtype=tensor.type.name,
            nbytes=tensor.nbytes,
            computed=any(part.computes for part in recipes[tensor.name].parts),
        )
        for tensor in stored
    )
    needed = sum(file.size for file in files) + (NOTES_BYTES if writer.folder else 0)
    free = free_space(target.parent)
    if needed > free:
        warnings += (f"{target}: not enough disk space: need {byte_size(needed)}, {byte_size(free)} free",)
    plan = ExportPlan(
        source=source.path,
        target=target,
        source_format=source.format,
        format=writer.name,
        layout=layout,
        model=model,
        tensors=tensors,
        stored=stored,
        files=files,
        tokenizer=stored_tokenizer,
        disk_needed=needed,
        disk_free=free,
        replaces=replaces,
        warnings=(*warnings, *_notes(checkpoint, tensors), *_changes(table, shapes, recipes)),
    )
    return plan, translated


def _check_layout(writer: ExportFormat, layout: str | None) -> str:
    if layout is None:
        return writer.layouts[0]
    if layout not in writer.layouts:
        raise ConfigError(
            f"layout: expected one of {', '.join(writer.layouts)} for {writer.label}, got {layout!r}; "
            "choose one of them, or leave it out"
        )
    return layout


def _check_type(writer: ExportFormat, dtype: str | None) -> str | None:
    """Return the format's name of the requested type."""
    if dtype is None:
        return None
    for name in (dtype, canonical_name(dtype)) if isinstance(dtype, str) else ():
        if name in writer.dtypes:
            return name
    raise ConfigError(
        f"dtype: expected one of {', '.join(writer.dtypes)} for {writer.label}, got {dtype!r}; "
        "choose one of them, or leave it out"
    )


def _drafts(
    checkpoint: Checkpoint,
    translated: TranslatedSource,
    recipes: dict[str, Recipe],
    specs: dict[str, ParameterSpec],
    dtype: str | None,
) -> Iterator[ExportTensor]:
    """Yield the tensors with the types that the policy chooses."""
    requested = dtype if dtype in STORAGE_TYPES else None
    for name, recipe in recipes.items():
        part = recipe.parts[0].name
        spec, info = specs[part], translated.info(name)
        chosen = plain_type(checkpoint.source.info(part), spec, requested) if spec.converted else info.dtype
        yield ExportTensor(name, info.shape, spec.kind, chosen)


def _vocabulary(tokenizer: StoredTokenizer | None) -> Vocabulary | None:
    if tokenizer is None:
        return None

    loaded = load_tokenizer(tokenizer.kind, tokenizer.data)

    def tokens() -> list[bytes]:
        return [loaded.decode_bytes([number]) for number in range(loaded.vocab_size)]

    return Vocabulary(tokenizer.kind, tokenizer.data, loaded.end_of_text, tokens, lambda: published_text(tokens()))


def _changes(table: Layout, shapes: Shapes, recipes: dict[str, Recipe]) -> Iterator[str]:
    """Yield what tells the model in the target from that of the source, though it computes the same."""
    widened = {
        part.name: (*part.shape, math.prod(part.result_shape) // part.size)
        for recipe in recipes.values()
        for part in recipe.parts
        if math.prod(part.result_shape) > part.size
    }
    if widened:
        yield (
            f"{len(widened)} tensors, {next(iter(widened))} first, have each number of a head repeated for its "
            f"channels, because {table.project} expects that: read back, it is {version_label({**shapes, **widened})}, "
            "which computes the same"
        )


def _notes(checkpoint: Checkpoint, tensors: tuple[ExportedTensor, ...]) -> Iterator[str]:
    """Yield what a user should know of the numbers in the target."""
    source = checkpoint.source
    lossy = Counter(
        info.source_dtype
        for info in map(source.info, source.names())
        if info.codec.requantizes or (info.decoded and not info.codec.matrices_only)
    )
    if lossy:
        count, types = sum(lossy.values()), ", ".join(sorted(lossy))
        yield (
            f"{source.path}: {count} matrices are quantized ({types}): the target has the decoded numbers, and the "
            "precision of the original does not come back"
        )
    computed = [tensor.name for tensor in tensors if tensor.computed]
    if computed:
        yield (
            f"{len(computed)} tensors, {computed[0]} first, are computed from the model's: read back, they are equal "
            "but for rounding"
        )
