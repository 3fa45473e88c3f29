"""Verification: reads every byte of a model file, and checks checksums, parameters and numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.errors import FormatError
from rwkv_cy.storage import ModelFile
from rwkv_cy.tensors.reading import number_type, read_blocks
from rwkv_cy.tensors.statistics import NonFinite, count_nonfinite
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo
from rwkv_cy.toolkit.fidelity import SourceCheck, check_against

__all__ = ["FileCheck", "verify"]


@dataclass(frozen=True)
class FileCheck:
    """Result of a verification.

    Attributes
    ----------
    path : Path
    format : str
        ``"hdf5"``, ``"pth"``, ...
    tensors : int
        Tensors read completely.
    bytes_read : int
        Bytes of their numbers.
    checksums : int
        Checksums verified; 0 for files without checksums.
    problems : tuple of str
        What is wrong, one sentence each; empty for a valid file.
    against : SourceCheck or None
        How the numbers agree with those of the source that was given.
    """

    path: Path
    format: str
    tensors: int
    bytes_read: int
    checksums: int
    problems: tuple[str, ...]
    against: SourceCheck | None = None

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON."""
        against = self.against and {**asdict(self.against), "path": str(self.against.path)}
        return {**asdict(self), "path": str(self.path), "against": against, "ok": self.ok}


def verify(
    path: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FileCheck:
    """Read every number of the model file `path`, and report what is wrong with it.

    Checksums are verified if the format has them: those of model files cover every byte; zip archives of torch.save
    have one for each tensor. For every format, names and shapes of the tensors are checked
    against the parameter table of their architecture, and NaN and Inf are counted.

    With `against`, every tensor is compared with that of the file from which `path` was converted or exported. Numbers
    in floating point types must be those of the source, rounded to the type; matrices in ``q8``, ``q6`` and ``q4`` must
    be what quantizing the source again gives, to the last bit; what another program quantized or computed must be
    within the precision of its type. Shapes, names and config must be the same.

    Parameters
    ----------
    path : path
        A model file, or a checkpoint of any supported format.
    against : path, optional
        The source of `path`, of any supported format.
    progress : callable, optional
        Called with the bytes done and the total bytes to read.

    Returns
    -------
    FileCheck

    Raises
    ------
    FormatError
        If the file cannot be opened: its headers are damaged, or its format is not supported.
    StorageError
        If the operating system refuses access.
    """
    with Checkpoint.open(path) as checkpoint, ExitStack() as stack:
        original = None if against is None else stack.enter_context(Checkpoint.open(against))
        source = checkpoint.source
        infos = [source.info(name) for name in source.names()]
        problems = [*_model_problems(checkpoint)]
        bytes_read = sum(info.source_nbytes for info in infos)
        # Checksums, numbers, and the comparison take one pass each.
        counter = _Counter(progress, (2 if original is None else 3) * bytes_read)
        checksums, damaged = _compare_checksums(source, counter)
        problems += damaged
        for info in infos:
            problems += _number_problems(source, info)
            counter.add(info.source_nbytes)
        compared = None if original is None else check_against(checkpoint, original, counter.add)
        problems += compared.problems if compared is not None else ()
        counter.finish()
        return FileCheck(
            path=source.path,
            format=source.format,
            tensors=len(infos),
            bytes_read=bytes_read,
            checksums=checksums,
            problems=tuple(dict.fromkeys(problems)),
            against=compared,
        )


class _Counter:
    """Adds up bytes for a progress function."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, count: int) -> None:
        self._done = min(self._done + count, self._total)
        if self._progress is not None:
            self._progress(self._done, self._total)

    def finish(self) -> None:
        self.add(self._total)


def _compare_checksums(source: ParameterSource, counter: _Counter) -> tuple[int, list[str]]:
    """Return the number of checksums verified, and the problems."""
    if isinstance(source, ModelFile):
        report = source.verify(counter.add)
        problems = [
            f"{source.path}: {name}: wrong checksum; copy the file again or convert it again" for name in report.damaged
        ]
        return report.tensors, [*problems, *report.problems]
    compared, problems = 0, []
    for name in source.names():
        try:
            compared += source.check_bytes(name)
        except FormatError as error:
            compared += 1
            problems.append(str(error))
        counter.add(source.info(name).source_nbytes)
    return compared, problems


def _model_problems(checkpoint: Checkpoint) -> tuple[str, ...]:
    try:
        _ = checkpoint.config
    except FormatError as error:
        return (str(error),)
    return ()


def _number_problems(source: ParameterSource, info: TensorInfo) -> tuple[str, ...]:
    count = NonFinite()
    try:
        for block in read_blocks(source, info):
            count += count_nonfinite(block, number_type(info))
    except FormatError as error:
        return (str(error),)
    if count:
        return (f"{source.path}: {info.name}: {count.nan} NaN and {count.inf} Inf",)
    return ()
