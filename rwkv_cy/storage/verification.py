"""Verification of a file: every byte against a checksum, and the index against the HDF5 objects."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.records import dataclass
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import BLOCK_BYTES, Progress, parameter_name

__all__ = ["VerifyReport", "structure_problems", "verify_file"]

#: Time limit of the process in which HDF5 reads the structure: the library may crash or hang on a forged file.
_TIMEOUT_SECONDS = 300
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from rwkv_cy.storage.structure import main
main(*sys.argv[2:])
"""


@dataclass(frozen=True)
class VerifyReport:
    """Result of a verification.

    Attributes
    ----------
    path : Path
    tensors : int
        Number of datasets whose checksums were compared.
    nbytes : int
        Bytes of these datasets.
    damaged : tuple of str
        Names of the parameters (paths, for other datasets) whose checksums differ.
    problems : tuple of str
        Other problems: bytes between the datasets that are not zero, and HDF5 objects that differ from the index.
    """

    path: Path
    tensors: int
    nbytes: int
    damaged: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.damaged and not self.problems


def verify_file(checked: CheckedFile, progress: Progress | None = None) -> VerifyReport:
    """Read every byte of an open file; see :meth:`rwkv_cy.storage.ModelFile.verify`."""
    checked.file.check()
    damaged = []
    for path, entry in checked.entries.items():
        if checked.file.crc32(entry.offset, entry.spec.nbytes, progress) != entry.crc32:
            damaged.append(parameter_name(path) or path)
    problems = structure_problems(checked)
    return VerifyReport(
        path=checked.path,
        tensors=len(checked.entries),
        nbytes=sum(entry.spec.nbytes for entry in checked.entries.values()),
        damaged=tuple(damaged),
        problems=tuple(problems),
    )


def structure_problems(checked: CheckedFile) -> list[str]:
    """Check all but the datasets of an open file; see :meth:`rwkv_cy.storage.ModelFile.structure_problems`."""
    problems = []
    try:
        checked.check_metadata()
    except FormatError as error:
        problems.append(str(error))
    else:
        problems += _object_problems(checked)
    return problems + _padding_problems(checked)


def _object_problems(checked: CheckedFile) -> list[str]:
    """Compare the index with the HDF5 objects in another process."""
    # Isolated (-I): otherwise Python would first import modules from the current folder, which may be untrusted.
    import json
    import subprocess  # which few commands need, and which takes long to import

    arguments = [json.dumps(sys.path), str(checked.absolute), checked.kind, repr(checked.footer)]
    command = [sys.executable, "-I", "-c", _CHILD, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [f"{checked.path}: HDF5 did not finish reading the structure; convert or save it again"]
    except OSError as error:
        raise StorageError(f"{checked.path}: cannot start a process to check its structure: {error}") from error
    if done.returncode != 0:
        return [f"{checked.path}: HDF5 failed on the structure (status {done.returncode}); convert or save it again"]
    return [f"{checked.path}: {problem}" for problem in json.loads(done.stdout.splitlines()[-1])]


def _padding_problems(checked: CheckedFile) -> list[str]:
    """Look for non-zero bytes between the datasets, in the padding of alignment and chunks."""
    end = checked.footer.metadata_size
    for spec, offset in sorted(checked.datasets(), key=lambda dataset: dataset[1]):
        for start in range(end, offset, BLOCK_BYTES):
            padding = np.empty(min(BLOCK_BYTES, offset - start), np.uint8)
            checked.file.read_into_at(start, padding)
            if padding.any():
                return [f"{checked.path}: expected zeros between {end} and {offset}, got other bytes; copy it again"]
        end = offset + spec.nbytes
    return []
