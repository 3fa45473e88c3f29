"""Inspection: describes a model file of any format from its headers and, on request, its numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwkv_cy.architectures import architecture_of, detect, version_label
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer, implied_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.errors import RWKVError
from rwkv_cy.formats.metadata import TOKENIZER_PATH
from rwkv_cy.tensors.policy import choose
from rwkv_cy.tensors.statistics import TensorStatistics, measure_tensor
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["FileReport", "TensorReport", "inspect"]

#: Types for which the memory needed is estimated.
_PRECISIONS = ("f32", "bf16", "q8", "q6", "q4")
#: Ids of the vocabulary of plain bytes.
_BYTES = 256


@dataclass(frozen=True)
class TensorReport:
    """One tensor of a file.

    Attributes
    ----------
    name : str
        Canonical name.
    shape : tuple of int
        Canonical shape.
    dtype : str
        Type in the file (``"bf16"``, ``"q5_1"``).
    nbytes : int
        Bytes in the file.
    source_name : str
        The name in the file.
    statistics : TensorStatistics or None
        Statistics of its numbers, if requested.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    source_name: str
    statistics: TensorStatistics | None


@dataclass(frozen=True)
class FileReport:
    """Description of a model file.

    Attributes
    ----------
    path : Path
    format : str
        ``"hdf5"``, ``"pth"``, ``"safetensors"``, ...
    architecture : str or None
        Label of the version of RWKV, whether it is supported or not; None if unknown.
    config : Config or None
        Dimensions; None if they cannot be determined, or the version is not supported.
    num_parameters : int
        Numbers in all tensors.
    dtypes : dict of str to int
        How many tensors there are of each type.
    bytes_on_disk : int
        Size of the file, or of all shards.
    bytes_in_memory : int
        Of the parameters when loaded without another type, without tables.
    table_bytes : int
        Of tables in which layers look tokens up. They stay in the file, and a token reads one row of each.
    memory : dict of str to int
        Bytes of the parameters when loaded as f32, bf16, q8, q6 and q4, without tables; empty if the file cannot be
        loaded.
    state_bytes : int or None
        Of the state of one sequence; None if `config` is None.
    tokenizer : str or None
        The tokenizer in a model file; for other formats, the one that loading would use.
    fingerprint : str or None
        Of a model file, which its states carry.
    created_by : str or None
        The program that wrote a model file.
    source : dict of str to str
        The checkpoint that a model file was converted from: name, format, sha256, size.
    metadata : dict of str to str
        Other metadata of a foreign file.
    tensors : tuple of TensorReport
        In the file's order.
    left_out : dict of str to str
        Other tensors of the file, which no model can have, by name: type and shape.
    problems : tuple of str
        Reasons why it cannot be loaded, one sentence each; empty for a valid model.
    """

    path: Path
    format: str
    architecture: str | None
    config: Config | None
    num_parameters: int
    dtypes: dict[str, int]
    bytes_on_disk: int
    bytes_in_memory: int
    table_bytes: int
    memory: dict[str, int]
    state_bytes: int | None
    tokenizer: str | None
    fingerprint: str | None
    created_by: str | None
    source: dict[str, str]
    metadata: dict[str, str]
    tensors: tuple[TensorReport, ...]
    left_out: dict[str, str]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return {**asdict(self), "path": str(self.path)}


def inspect(
    path: str | os.PathLike[str], stats: bool = False, *, progress: Callable[[int, int], None] | None = None
) -> FileReport:
    """Describe the model file `path`.

    Reads headers only, unless `stats` requests the numbers too; then each tensor is read once, in blocks. A file of
    a version that is not supported, or whose parameters are incomplete, is described too.

    Parameters
    ----------
    path : path
        A model file, or a checkpoint of any supported format.
    stats : bool, default False
        Whether to describe the numbers of each tensor.
    progress : callable, optional
        With `stats`, called with the bytes done and the bytes of all tensors.

    Returns
    -------
    FileReport

    Raises
    ------
    FormatError
        If the file is damaged, or its format is not supported.
    StorageError
        If the operating system refuses access.
    """
    with Checkpoint.open(path) as checkpoint:
        source, header = checkpoint.source, checkpoint.header
        infos = [source.info(name) for name in source.names()]
        config, problems = _identify(checkpoint)
        dtypes: dict[str, int] = {}
        for info in infos:
            dtypes[info.source_dtype] = dtypes.get(info.source_dtype, 0) + 1
        loadable = config is not None and not problems
        loaded, *estimates = _memory(checkpoint, None, *_PRECISIONS) if loadable else (0,)
        return FileReport(
            path=source.path,
            format=source.format,
            architecture=version_label(checkpoint.shapes),
            config=config,
            num_parameters=sum(info.size for info in infos),
            dtypes=dtypes,
            bytes_on_disk=sum(file.size for file in source.files),
            bytes_in_memory=loaded if loadable else sum(info.nbytes for info in infos),
            table_bytes=_table_bytes(checkpoint) if loadable else 0,
            memory=dict(zip(_PRECISIONS, estimates, strict=False)),
            state_bytes=_state_bytes(config) if config else None,
            tokenizer=describe_tokenizer(header.tokenizer) if header else _implied_tokenizer(source, config),
            fingerprint=header.fingerprint if header else None,
            created_by=header.created_by if header else None,
            source=dict(header.source) if header else {},
            metadata={} if header else dict(source.metadata),
            tensors=_describe_all(source, infos, stats, progress),
            left_out=dict(source.left_out),
            problems=problems,
        )


def _identify(checkpoint: Checkpoint) -> tuple[Config | None, tuple[str, ...]]:
    """Return the config that the tensors imply, and what is wrong with them."""
    try:
        return checkpoint.config, ()
    except RWKVError as error:
        problem = str(error)
    try:
        return detect(checkpoint.shapes, str(checkpoint.path)), (problem,)
    except RWKVError:
        return None, (problem,)


def _implied_tokenizer(source: ParameterSource, config: Config | None) -> str | None:
    """Describe the tokenizer that loading a foreign checkpoint uses; one in the file is decoded if it may be bytes."""
    in_file = source.metadata.get(TOKENIZER_PATH) == str(source.path)
    if config is not None and config.vocab_size != _BYTES and in_file:
        return "world (in the file)"
    found = None if config is None else implied_tokenizer(source, config.vocab_size)
    if found is None or found.tokenizer is None:
        return None
    origin = found.origin
    if in_file and origin == source.path:
        return f"{found.tokenizer.kind} (in the file)"
    return f"{origin.name} (beside the file)" if isinstance(origin, Path) else f"{origin} (not in the file)"


def _memory(checkpoint: Checkpoint, *dtypes: str | None) -> list[int]:
    """Return the bytes of all parameters but tables when loaded in each type; None stands for loading without one."""
    source = checkpoint.source
    alike: dict[tuple[object, ...], list[ParameterSpec]] = {}
    for spec in checkpoint.specs:
        info = source.info(spec.name)
        key = (spec.kind, spec.stored_transposed, info.shape, info.dtype, info.source_dtype, info.nbytes)
        alike.setdefault(key, []).append(spec)
    return [
        sum(
            len(specs) * choose(source, specs[0], dtype).info.nbytes
            for specs in alike.values()
            if specs[0].kind != "table"
        )
        for dtype in dtypes
    ]


def _table_bytes(checkpoint: Checkpoint) -> int:
    return sum(checkpoint.source.info(spec.name).nbytes for spec in checkpoint.specs if spec.kind == "table")


def _state_bytes(config: Config) -> int:
    """Return the bytes of the state of one sequence, in the model's type."""
    numbers = sum(field.size for field in architecture_of(config).state_fields(config))
    return config.num_layers * numbers * (8 if config.compute_dtype == "f64" else 4)


def _describe_all(
    source: ParameterSource, infos: Sequence[TensorInfo], stats: bool, progress: Callable[[int, int], None] | None
) -> tuple[TensorReport, ...]:
    reports, done, total = [], 0, sum(info.source_nbytes for info in infos)
    for info in infos:
        reports.append(_describe(source, info, stats))
        done += info.source_nbytes
        if stats and progress is not None:
            progress(done, total)
    return tuple(reports)


def _describe(source: ParameterSource, info: TensorInfo, stats: bool) -> TensorReport:
    return TensorReport(
        name=info.name,
        shape=info.shape,
        dtype=info.source_dtype,
        nbytes=info.source_nbytes,
        source_name=info.source_name,
        statistics=measure_tensor(source, info) if stats else None,
    )
