"""Verification: every byte of a model file read, and held against its checksums and its architecture."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.errors import FormatError
from rwkv_cy.storage import ModelFile
from rwkv_cy.tensors.reading import number_type, read_blocks
from rwkv_cy.tensors.statistics import NonFinite, count_nonfinite
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["FileCheck", "verify"]


@dataclass(frozen=True)
class FileCheck:
    """What was looked at in a file, and what is wrong with it.

    Attributes
    ----------
    path : Path
    format : str
        ``"hdf5"``, ``"pth"``, ...
    tensors : int
        Tensors read, each to its last number.
    bytes_read : int
        Bytes of numbers that were looked at.
    checksums : int
        Checksums that were compared; 0 for formats that have none.
    problems : tuple of str
        What is wrong, a sentence each; empty for a sound file.
    """

    path: Path
    format: str
    tensors: int
    bytes_read: int
    checksums: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        return {**asdict(self), "path": str(self.path), "ok": self.ok}


def verify(path: str | os.PathLike[str]) -> FileCheck:
    """Read every number of the model file `path`, and say what is wrong with it.

    For a model file of this package, every byte is compared with its checksum; for a .pth archive, the bytes of
    tensors are, unless it was written without checksums. For every format, the tensors are compared with the parameter
    table of their architecture, and NaN and Inf are counted.

    Parameters
    ----------
    path : path
        A model file, or a checkpoint of any supported format.

    Returns
    -------
    FileCheck

    Raises
    ------
    FormatError
        If the file cannot be opened at all: damaged in its headers, or of no format that this package reads.
    StorageError
        If the operating system refuses it.
    """
    with Checkpoint.open(path) as checkpoint:
        source = checkpoint.source
        infos = [source.info(name) for name in source.names()]
        problems = [*_model_problems(checkpoint)]
        checksums = 0
        if isinstance(source, ModelFile):
            found = source.verify()
            checksums = found.tensors
            problems += [
                f"{source.path}: {name}: its bytes do not fit their checksum; copy the file or convert it again"
                for name in found.damaged
            ]
            problems += found.problems
        else:
            for info in infos:
                try:
                    checksums += source.check_bytes(info.name)
                except FormatError as error:
                    problems.append(str(error))
        for info in infos:
            problems += _number_problems(source, info)
        return FileCheck(
            path=source.path,
            format=source.format,
            tensors=len(infos),
            bytes_read=sum(info.source_nbytes for info in infos),
            checksums=checksums,
            problems=tuple(problems),
        )


def _model_problems(checkpoint: Checkpoint) -> tuple[str, ...]:
    try:
        _ = checkpoint.config
    except FormatError as error:
        return (str(error),)
    return ()


def _number_problems(source: ParameterSource, info: TensorInfo) -> tuple[str, ...]:
    found = NonFinite()
    try:
        for block in read_blocks(source, info):
            found += count_nonfinite(block, number_type(info))
    except FormatError as error:
        return (str(error),)
    if found:
        return (f"{source.path}: {info.name}: {found.nan} NaN and {found.inf} infinite numbers",)
    return ()
