"""Verification: reads every byte of a model file, and checks checksums, parameters and numbers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.errors import FormatError
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.runtime import get_num_threads
from rwkv_cy.storage import ModelFile
from rwkv_cy.tensors.parallel import Stop, run_jobs
from rwkv_cy.tensors.reading import number_type, read_blocks
from rwkv_cy.tensors.statistics import NonFinite, count_nonfinite
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo
from rwkv_cy.toolkit.fidelity import SourceCheck, check_against
from rwkv_cy.toolkit.schema_names import named

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
        return named("verify", {**asdict(self), "path": str(self.path), "against": against, "ok": self.ok})


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
    in floating point types must be those of the source, rounded to the type; matrices in quantized types must
    be what quantizing the source again gives, to the last bit; what another program quantized or computed must be
    within the precision of its type. Shapes, names and config must be the same.

    Parameters
    ----------
    path : path
        A model file, or a checkpoint of any supported format.
    against : path, optional
        The source of `path`, of any supported format.
    progress : callable, optional
        Called with the bytes done and the total bytes to read, by one thread at a time.

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
        found = _check_tensors(source, infos, counter)
        problems += [problem for tensor in found for problem in tensor.problems]
        problems += source.structure_problems() if isinstance(source, ModelFile) else []
        compared = None if original is None else check_against(checkpoint, original, counter.add)
        problems += compared.problems if compared is not None else ()
        counter.finish()
        return FileCheck(
            path=source.path,
            format=source.format,
            tensors=len(infos),
            bytes_read=bytes_read,
            checksums=sum(tensor.compared for tensor in found),
            problems=tuple(dict.fromkeys(problems)),
            against=compared,
        )


class _Counter:
    """Adds up bytes for a progress function; several threads may add some."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done = min(self._done + count, self._total)
            if self._progress is not None:
                self._progress(self._done, self._total)

    def finish(self) -> None:
        self.add(self._total)


@dataclass(frozen=True)
class _TensorCheck:
    """What is wrong with a tensor, and whether its checksum was compared."""

    compared: bool
    problems: tuple[str, ...]


def _check_tensors(source: ParameterSource, infos: Sequence[TensorInfo], counter: _Counter) -> list[_TensorCheck]:
    """Check the tensors, each by one thread from end to end, so that its bytes come from the disk once."""
    found: dict[str, _TensorCheck] = {}
    stop = Stop()

    def check(info: TensorInfo) -> None:
        left = 2 * info.source_nbytes

        def advance(count: int) -> None:
            nonlocal left
            stop()
            count = min(count, left)
            left -= count
            counter.add(count)

        compared, problems = _checksum_problems(source, info, advance)
        advance(max(left - info.source_nbytes, 0))
        found[info.name] = _TensorCheck(compared, (*problems, *_number_problems(source, info, advance)))
        advance(left)

    run_jobs([partial(check, info) for info in infos], get_num_threads(), stop)
    return [found[info.name] for info in infos]


def _checksum_problems(
    source: ParameterSource, info: TensorInfo, advance: Callable[[int], None]
) -> tuple[bool, tuple[str, ...]]:
    """Return whether there is a checksum, and the problem."""
    try:
        return source.check_bytes(info.name, advance), ()
    except FormatError as error:
        return True, (str(error),)


def _model_problems(checkpoint: Checkpoint) -> tuple[str, ...]:
    try:
        _ = checkpoint.config
    except FormatError as error:
        return (str(error),)
    return ()


def _number_problems(source: ParameterSource, info: TensorInfo, advance: Callable[[int], None]) -> tuple[str, ...]:
    count = NonFinite()
    try:
        for block in read_blocks(source, info):
            count += count_nonfinite(block, number_type(info))
            advance(info.source_nbytes * block.size // info.size)
    except FormatError as error:
        return (str(error),)
    if count:
        return (f"{source.path}: {info.name}: {count.nan} NaN and {count.inf} Inf",)
    return ()
