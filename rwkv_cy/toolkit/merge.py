"""Merging an adapter into its model: one model file, block by block, through the converter."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rwkv_cy.architectures import another_version, architecture_of, version_label
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, FormatError, SpecError, UnsupportedError
from rwkv_cy.files.reading import new_file_path
from rwkv_cy.files.source_hash import SourceHash
from rwkv_cy.records import dataclass, replace
from rwkv_cy.storage import StoredTokenizer
from rwkv_cy.tensors.converter import Progress
from rwkv_cy.tensors.reading import number_type
from rwkv_cy.tensors.tensor import ParameterSource
from rwkv_cy.toolkit.adapter_fit import AdapterOptions, fit
from rwkv_cy.toolkit.adapters import AdapterFile, Change
from rwkv_cy.toolkit.convert import ConversionReport, write_conversion
from rwkv_cy.toolkit.merged_source import MergedSource
from rwkv_cy.toolkit.plan import ConversionPlan, make_plan
from rwkv_cy.toolkit.schema_names import named

__all__ = ["MergePlan", "MergeReport", "merge", "plan_merge"]


@dataclass(frozen=True)
class MergePlan:
    """A merge that can be carried out.

    Attributes
    ----------
    conversion : ConversionPlan
        Of the merged model.
    adapter : Path
    changes : dict of str to str
        What is changed: kind of the change by parameter.
    """

    conversion: ConversionPlan
    adapter: Path
    changes: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of parameters by kind of change."""
        return dict(Counter(self.changes.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        conversion = self.conversion.to_dict()
        return named(
            "merge-plan", {"conversion": conversion, "adapter": str(self.adapter), "changes": dict(self.changes)}
        )


@dataclass(frozen=True)
class MergeReport:
    """Result of a merge.

    Attributes
    ----------
    plan : MergePlan
        The plan that was carried out.
    conversion : ConversionReport
        Its `source_sha256` is that of the files of the base and of the adapter, concatenated.
    """

    plan: MergePlan
    conversion: ConversionReport

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        plan = self.plan.to_dict()
        conversion = self.conversion.to_dict()
        return named("merge", {"adapter": plan["adapter"], "changes": plan["changes"], "conversion": conversion})


def merge(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    alpha: float | None = None,
    init: str | os.PathLike[str] | None = None,
    state: str | os.PathLike[str] | None = None,
    weight: float = 1.0,
    bone_blocks: Literal["rows", "columns"] | None = None,
    dtype: str | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    requantize: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge an adapter into its model, and write a model file.

    The names and shapes of its tensors tell the kind of an adapter: LoRA, PiSSA, DiSHA (bone and bat) and the bone
    files before it, and tensors that were trained as a whole, tuned states among them. Products are computed in
    float64, and the sum is rounded once, to the type in the target. Memory is bounded as for
    :func:`rwkv_cy.convert`, plus the adapter's tensors for one matrix.

    Parameters
    ----------
    base : path
        The model: a model file, or a checkpoint of any supported format.
    adapter : path
        The adapter, in any supported format.
    target : path
        The model file to write; :func:`rwkv_cy.export` writes other formats from it.
    alpha : float, optional
        ``lora_alpha`` of the training, for LoRA: the product of the factors is scaled by ``alpha / rank``. Files do not
        hold it.
    init : path, optional
        The file of the initial factors, for PiSSA (``init_pissa.pth``).
    state : path, optional
        A file of tuned states (``att.time_state``) beside the adapter; a state file alone is an adapter too.
    weight : float, default 1
        Share of the tensors that were trained as a whole: 1 replaces those of the base, 0.5 takes the mean of both.
        States are always replaced.
    bone_blocks : {"rows", "columns"}, optional
        For bone files from before DiSHA whose square matrices do not tell which blocks they belong to.
    dtype : str, optional
        Type of matrices and embedding, as for :func:`rwkv_cy.convert`. By default they keep the types of the base;
        changed ones become f16 if they are quantized there, low-rank factors f32.
    tokenizer, overwrite, requantize, progress
        As for :func:`rwkv_cy.convert`.

    Returns
    -------
    MergeReport

    Raises
    ------
    SpecError
        If a tensor of the adapter fits nowhere, fits in more than one way, or lacks its other factor; all of them are
        named. Also if a file says that it was trained on another version.
    ConfigError
        If `alpha` is missing or has no use, or a number is out of range.
    RWKVError
        As raised by :func:`rwkv_cy.convert`.
    """
    options = _options(alpha, weight, bone_blocks)
    files: dict[AdapterFile, Any] = {"adapter": adapter, "initial": init, "state": state}
    place = new_file_path(target)
    with _opened(base, files, options, dtype) as (merged, changes):
        plan = _make_plan(merged, Path(adapter), place, changes, alpha, dtype, tokenizer, overwrite, requantize)
        with SourceHash(merged.source.files) as running:
            conversion = write_conversion(
                merged.source, plan.conversion, running, overwrite=overwrite, progress=progress
            )
    return MergeReport(plan, conversion)


def plan_merge(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    alpha: float | None = None,
    init: str | os.PathLike[str] | None = None,
    state: str | os.PathLike[str] | None = None,
    weight: float = 1.0,
    bone_blocks: Literal["rows", "columns"] | None = None,
    dtype: str | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
    requantize: bool = False,
) -> MergePlan:
    """Describe what :func:`merge` would do with the same arguments; writes nothing.

    Raises
    ------
    RWKVError
        As raised by :func:`merge`, except if the target exists and `overwrite` is false.
    """
    options = _options(alpha, weight, bone_blocks)
    files: dict[AdapterFile, Any] = {"adapter": adapter, "initial": init, "state": state}
    place = new_file_path(target)
    with _opened(base, files, options, dtype) as (merged, changes):
        return _make_plan(merged, Path(adapter), place, changes, alpha, dtype, tokenizer, overwrite, requantize)


class _Merged(Checkpoint):
    """The checkpoint of the merged model: config and tokenizer are those of the base.

    `replaced` is whether the base has no share in any tensor.
    """

    def __init__(self, base: Checkpoint, source: MergedSource, *, replaced: bool) -> None:
        super().__init__(source)
        self._base = base
        self.replaced = replaced

    @cached_property
    def config(self) -> Config:
        """The config of the base."""
        return self._base.config

    def choose_tokenizer(self, name: str | None = None) -> tuple[StoredTokenizer | None, tuple[str, ...]]:
        """Choose as for the base."""
        return self._base.choose_tokenizer(name)


def _options(alpha: float | None, weight: float, bone_blocks: Literal["rows", "columns"] | None) -> AdapterOptions:
    for name, value in (("alpha", alpha), ("weight", weight)):
        if value is not None and (isinstance(value, bool) or not math.isfinite(value)):
            raise ConfigError(f"{name}: expected a finite number, got {value!r}")
    if bone_blocks not in (None, "rows", "columns"):
        raise ConfigError(f"bone_blocks: expected 'rows' or 'columns', got {bone_blocks!r}")
    return AdapterOptions(alpha, weight, bone_blocks)


@contextmanager
def _opened(
    base: str | os.PathLike[str],
    files: Mapping[AdapterFile, str | os.PathLike[str] | None],
    options: AdapterOptions,
    dtype: str | None,
) -> Iterator[tuple[_Merged, dict[str, Change]]]:
    """Open the files, and yield the merged model and the changes."""
    with ExitStack() as stack:
        model = stack.enter_context(Checkpoint.open(base))
        config = _base_config(model, files["adapter"])
        table = {spec.name: spec for spec in architecture_of(config).parameters(config)}
        sources = {file: stack.enter_context(open_source(path)) for file, path in files.items() if path is not None}
        for source in sources.values():
            _check_version(source, config)
        shapes = {file: {name: source.info(name).shape for name in source.names()} for file, source in sources.items()}
        changes = fit(table, shapes, options, str(sources["adapter"].path))
        own = frozenset(model.source.names())
        dtypes = {
            name: _delivered(model.source if name in own else None, sources, change, table[name], dtype)
            for name, change in changes.items()
        }
        replaced = options.weight == 1 and own <= {name for name, change in changes.items() if change.replaces}
        yield _Merged(model, MergedSource(model.source, sources, changes, dtypes), replaced=replaced), changes


def _base_config(base: Checkpoint, adapter: str | os.PathLike[str] | None) -> Config:
    """Return the config of the base; an error asks whether it and the adapter are swapped, if that is a model."""
    try:
        return base.config
    except UnsupportedError as error:
        if adapter is None or not _is_model(adapter):
            raise
        what = version_label(base.shapes) or "something else"
        raise UnsupportedError(
            f"{base.path}: expected a model, got {what}, and {adapter} is a model: are base and adapter swapped?"
        ) from error


def _check_version(adapter: ParameterSource, config: Config) -> None:
    """Raise SpecError if a file was trained on another version, as it says: names and shapes may fit all the same."""
    other = another_version(adapter.metadata, config)
    if other is not None:
        raise SpecError(
            f"{adapter.path}: expected an adapter of this model's version, {architecture_of(config).label}, got one "
            f"that was trained on {other}; name the model that it was trained on"
        )


def _is_model(path: str | os.PathLike[str]) -> bool:
    try:
        with Checkpoint.open(path) as checkpoint:
            _ = checkpoint.config
    except FormatError:
        return False
    return True


def _delivered(
    base: ParameterSource | None,
    adapters: Mapping[AdapterFile, ParameterSource],
    change: Change,
    spec: ParameterSpec,
    dtype: str | None,
) -> str:
    """Return the type of a changed parameter before it is converted, so that it is rounded once.

    `base` is None where the model does not have the parameter.
    """
    if base is None or (change.replaces and not spec.converted):
        tensor = change.tensors[0]
        return number_type(adapters[tensor.file].info(tensor.name))
    info = base.info(spec.name)
    if spec.converted and (info.decoded or info.codec.requantizes or dtype is not None):
        return "f64"
    return number_type(info)


def _make_plan(
    merged: _Merged,
    adapter: Path,
    target: Path,
    changes: dict[str, Change],
    alpha: float | None,
    dtype: str | None,
    tokenizer: str | None,
    overwrite: bool,
    requantize: bool,
) -> MergePlan:
    plan = make_plan(merged, target, dtype, tokenizer, overwrite=overwrite, requantize=requantize)
    origin = {"adapter": adapter.name, **({} if alpha is None else {"alpha": f"{alpha:g}"})}
    plan = replace(plan, header=plan.header.with_source(origin))
    if merged.replaced:
        warning = (
            f"{adapter}: a whole model, every tensor of which replaces that of the base; a weight below 1 (--weight "
            "0.5, the mean) mixes the two"
        )
        plan = replace(plan, warnings=(*plan.warnings, warning))
    return MergePlan(plan, adapter, {name: change.label for name, change in changes.items()})
