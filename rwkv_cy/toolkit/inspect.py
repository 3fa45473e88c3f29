"""Inspection: what a model file of any format is, from its headers; its numbers only when asked for."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwkv_cy.architectures import detect, version_label
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.checkpoint.tokenizer_choice import describe_tokenizer, guess_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.errors import RWKVError
from rwkv_cy.tensors.statistics import TensorStatistics, measure_tensor
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["FileReport", "TensorReport", "inspect"]


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
        The name that the file itself uses.
    statistics : TensorStatistics or None
        What its numbers are like, where asked for.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    source_name: str
    statistics: TensorStatistics | None


@dataclass(frozen=True)
class FileReport:
    """What a model file is.

    Attributes
    ----------
    path : Path
    format : str
        ``"hdf5"``, ``"pth"``, ``"safetensors"``, ...
    architecture : str or None
        Name for people of the version of RWKV, whether this package runs it or not; None where it is unknown.
    config : Config or None
        Dimensions; None where they cannot be told, or the version does not run here.
    num_parameters : int
        Numbers in all tensors.
    dtypes : dict of str to int
        How many tensors there are of each type.
    bytes_on_disk : int
        Size of the file, or of all shards.
    bytes_in_memory : int
        Of the parameters when loaded, in the types in which they are used.
    tokenizer : str or None
        In words: what a model file stores; for a foreign one, what loading takes, which is not in the file.
    fingerprint : str or None
        Of a model file; states carry it.
    created_by : str or None
        What wrote a model file.
    source : dict of str to str
        What a model file was converted from: name, format, sha256, size.
    metadata : dict of str to str
        What else a foreign file says of itself.
    tensors : tuple of TensorReport
        In the file's order.
    problems : tuple of str
        Why it cannot be loaded, a sentence each; empty for a sound model.
    """

    path: Path
    format: str
    architecture: str | None
    config: Config | None
    num_parameters: int
    dtypes: dict[str, int]
    bytes_on_disk: int
    bytes_in_memory: int
    tokenizer: str | None
    fingerprint: str | None
    created_by: str | None
    source: dict[str, str]
    metadata: dict[str, str]
    tensors: tuple[TensorReport, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return {**asdict(self), "path": str(self.path)}


def inspect(path: str | os.PathLike[str], stats: bool = False) -> FileReport:
    """Say what the model file `path` is.

    Reads headers only, unless `stats` asks for the numbers too; then each tensor is read once, in blocks. A file of
    a version that this package does not run, or whose parameters are not complete, is described all the same.

    Parameters
    ----------
    path : path
        A model file, or a checkpoint of any supported format.
    stats : bool, default False
        Whether to describe the numbers of each tensor.

    Returns
    -------
    FileReport

    Raises
    ------
    FormatError
        If the file is damaged, or of no format that this package reads.
    StorageError
        If the operating system refuses it.
    """
    with Checkpoint.open(path) as checkpoint:
        source, header = checkpoint.source, checkpoint.header
        infos = [source.info(name) for name in source.names()]
        config, problems = _identify(checkpoint)
        dtypes: dict[str, int] = {}
        for info in infos:
            dtypes[info.source_dtype] = dtypes.get(info.source_dtype, 0) + 1
        return FileReport(
            path=source.path,
            format=source.format,
            architecture=version_label(checkpoint.shapes),
            config=config,
            num_parameters=sum(info.size for info in infos),
            dtypes=dtypes,
            bytes_on_disk=sum(file.size for file in source.files),
            bytes_in_memory=sum(info.nbytes for info in infos),
            tokenizer=describe_tokenizer(header.tokenizer) if header else _implied_tokenizer(source.path, config),
            fingerprint=header.fingerprint if header else None,
            created_by=header.created_by if header else None,
            source=dict(header.source) if header else {},
            metadata={} if header else dict(source.metadata),
            tensors=tuple(_describe(source, info, stats) for info in infos),
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


def _implied_tokenizer(path: Path, config: Config | None) -> str | None:
    """Say which tokenizer loading a foreign checkpoint takes, without opening it."""
    guess = None if config is None else guess_tokenizer(path, config.vocab_size)
    if guess is None:
        return None
    return f"{guess.name} (beside the file)" if isinstance(guess, Path) else f"{guess} (not in the file)"


def _describe(source: ParameterSource, info: TensorInfo, stats: bool) -> TensorReport:
    return TensorReport(
        name=info.name,
        shape=info.shape,
        dtype=info.source_dtype,
        nbytes=info.source_nbytes,
        source_name=info.source_name,
        statistics=measure_tensor(source, info) if stats else None,
    )
