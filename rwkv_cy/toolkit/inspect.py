"""Inspection: describes a model file of any format from its headers and, on request, its numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rwkv_cy.architectures import architecture_of, detect, version_label
from rwkv_cy.checkpoint.checkpoint import Alike, Checkpoint
from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer, foreseen_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.errors import RWKVError
from rwkv_cy.formats.metadata import own_metadata
from rwkv_cy.runtime import available_memory, get_num_threads
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo
from rwkv_cy.toolkit.bandwidth import machine_sample
from rwkv_cy.toolkit.expectation import expectations, state_bytes
from rwkv_cy.toolkit.file_report import Expectation, FileReport, GroupReport, Machine, TensorReport
from rwkv_cy.toolkit.tensor_names import matching_names
from rwkv_cy.units import byte_size, short_count

if TYPE_CHECKING:
    from rwkv_cy.tensors.statistics import TensorStatistics

__all__ = ["Expectation", "FileReport", "GroupReport", "Machine", "TensorReport", "inspect"]

#: The order of the groups.
_KINDS = ("embedding", "matrix", "low_rank", "vector", "table", "state", "head", "other")


def inspect(
    path: str | os.PathLike[str],
    stats: bool = False,
    *,
    tensors: str | None = "*",
    speed: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> FileReport:
    """Describe the model file `path`.

    Reads headers only, unless `stats` requests the numbers too; then each requested tensor is read once, in blocks. A
    file of a version that is not supported, or whose parameters are incomplete, is described too.

    Parameters
    ----------
    path : path
        A model file, or a checkpoint of any supported format.
    stats : bool, default False
        Whether to describe the numbers of the requested tensors.
    tensors : str or None, default "*"
        The tensors to list: those whose names match this pattern, as ``"blocks.0.*"``; None for none.
    speed : bool, default True
        Whether to estimate the speed on this machine. It needs the read bandwidth, which is sampled once in a process,
        in less than 30 ms and beside the other work.
    progress : callable, optional
        With `stats`, called with the bytes done and the bytes of all requested tensors.

    Returns
    -------
    FileReport

    Raises
    ------
    ConfigError
        If no tensor matches the pattern.
    FormatError
        If the file is damaged, or its format is not supported.
    StorageError
        If the operating system refuses access.
    """
    if speed:
        machine_sample().start()
    with Checkpoint.open(path) as checkpoint:
        source, header = checkpoint.source, checkpoint.header
        infos = tuple(checkpoint.infos.values())
        config, problems = _identify(checkpoint)
        loadable = config is not None and not problems
        machine = Machine(
            get_num_threads(), available_memory(), machine_sample().result() if speed and loadable else None
        )
        expected = expectations(checkpoint, machine) if loadable else ()
        tokenizer, passed = _tokenizer(checkpoint, config)
        alike = checkpoint.alike if loadable else ()
        groups = _groups(_described(alike, infos))
        listed = () if tensors is None else tuple(_listed(source, infos, tensors, stats, progress))
        return FileReport(
            path=source.path,
            format=source.format,
            files=len(source.files),
            architecture=architecture_of(config).label if config else version_label(checkpoint.shapes),
            size_name=short_count(sum(group.parameters for group in groups)),
            config=config,
            num_parameters=sum(group.parameters for group in groups),
            num_tensors=len(infos),
            dtypes=_dtypes(_described(alike, infos)),
            groups=groups,
            bytes_on_disk=sum(file.size for file in source.files),
            bytes_in_memory=expected[0].memory_bytes if expected else sum(info.nbytes for info in infos),
            table_bytes=sum(one.count * one.info.nbytes for one in alike if one.spec.kind == "table"),
            state_bytes=state_bytes(config) if config else None,
            expected=expected,
            machine=machine,
            tokenizer=tokenizer,
            fingerprint=header.fingerprint if header else None,
            created_by=header.created_by if header else None,
            source=dict(header.source) if header else {},
            metadata={} if header else own_metadata(source.metadata),
            tensors=listed,
            left_out=dict(source.left_out),
            warnings=(*checkpoint.warnings, *passed, *_warnings(expected, machine, listed)),
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


def _tokenizer(checkpoint: Checkpoint, config: Config | None) -> tuple[str | None, tuple[str, ...]]:
    """Describe the tokenizer of a model file, or the one that loading would use, and what it would pass by."""
    if checkpoint.header is not None:
        return describe_tokenizer(checkpoint.header.tokenizer), ()
    return (None, ()) if config is None else foreseen_tokenizer(checkpoint.source, config.vocab_size)


def _described(alike: Sequence[Alike], infos: Sequence[TensorInfo]) -> Iterator[tuple[str, TensorInfo, int]]:
    """Yield kind, description and number of tensors that are alike; each alone where their kinds are not known."""
    if alike:
        return ((one.spec.kind, one.info, one.count) for one in alike)
    return (("other", info, 1) for info in infos)


def _groups(described: Iterable[tuple[str, TensorInfo, int]]) -> tuple[GroupReport, ...]:
    members: dict[str, list[tuple[TensorInfo, int]]] = {kind: [] for kind in _KINDS}
    for kind, info, count in described:
        members[kind].append((info, count))
    return tuple(
        GroupReport(
            kind=kind,
            tensors=sum(count for _, count in group),
            parameters=sum(count * info.size for info, count in group),
            nbytes=sum(count * info.source_nbytes for info, count in group),
            dtypes=_dtypes((kind, info, count) for info, count in group),
        )
        for kind, group in members.items()
        if group
    )


def _dtypes(described: Iterable[tuple[str, TensorInfo, int]]) -> dict[str, int]:
    """Count the tensors of each type of the file."""
    counts: Counter[str] = Counter()
    for _, info, count in described:
        counts[info.source_dtype] += count
    return dict(counts)


def _warnings(expected: Sequence[Expectation], machine: Machine, tensors: Sequence[TensorReport]) -> Iterator[str]:
    """Yield what a user should know: types that do not fit into memory, and numbers that are not finite."""
    if expected and not any(one.fits is not False for one in expected):
        least = min(one.memory_bytes for one in expected)
        yield (
            f"this machine has {byte_size(machine.available_memory or 0)} of memory available, and the model needs "
            f"{byte_size(least)} or more"
        )
    for tensor in tensors:
        found = tensor.statistics
        if found is not None and (found.nan or found.inf):
            yield f"{tensor.name}: {found.nan} NaN and {found.inf} Inf"


def _listed(
    source: ParameterSource,
    infos: Sequence[TensorInfo],
    pattern: str,
    stats: bool,
    progress: Callable[[int, int], None] | None,
) -> Iterator[TensorReport]:
    """Yield the reports of the tensors whose names match."""
    names = set(matching_names((info.name for info in infos), pattern, str(source.path)))
    chosen = [info for info in infos if info.name in names]
    done, total = 0, sum(info.source_nbytes for info in chosen)
    for info in chosen:
        found = _measure(source, info, done, total, progress) if stats else None
        done += info.source_nbytes
        yield TensorReport(info.name, info.shape, info.source_dtype, info.source_nbytes, info.source_name, found)


def _measure(
    source: ParameterSource, info: TensorInfo, done: int, total: int, progress: Callable[[int, int], None] | None
) -> TensorStatistics:
    """Measure one tensor, and report the progress within it."""
    from rwkv_cy.tensors.statistics import measure_tensor

    if progress is None:
        return measure_tensor(source, info)
    measured = measure_tensor(
        source, info, progress=lambda count: progress(done + info.source_nbytes * count // info.size, total)
    )
    progress(done + info.source_nbytes, total)
    return measured
