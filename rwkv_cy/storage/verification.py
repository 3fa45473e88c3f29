"""Verification of a sealed file: every byte against a checksum, and the index against what HDF5 finds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.storage.schema import BLOCK_BYTES, Progress, parameter_name
from rwkv_cy.storage.sealed import SealedFile

__all__ = ["VerifyReport", "verify_sealed"]

#: HDF5 looks at the structure in a process of its own, for so long at most: its library may crash on a forged file.
_TIMEOUT_SECONDS = 300
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from rwkv_cy.storage.structure import main
main(*sys.argv[2:])
"""


@dataclass(frozen=True)
class VerifyReport:
    """What verification found.

    Attributes
    ----------
    path : Path
    tensors : int
        Number of datasets that were summed.
    nbytes : int
        Bytes that were summed.
    damaged : tuple of str
        Names of the parameters (paths, for other datasets) whose bytes are not those that were written.
    problems : tuple of str
        What else is wrong: bytes between the datasets, and HDF5 objects that the index does not describe.
    """

    path: Path
    tensors: int
    nbytes: int
    damaged: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.problems


def verify_sealed(sealed: SealedFile, progress: Progress | None = None) -> VerifyReport:
    """Read every byte of an open file; see :meth:`rwkv_cy.storage.ModelFile.verify`."""
    sealed.file.check()
    damaged = []
    problems = []
    for path, entry in sealed.entries.items():
        if sealed.checksum(entry.offset, entry.spec.nbytes, progress) != entry.crc32:
            damaged.append(parameter_name(path) or path)
    try:
        sealed.check_metadata()
    except FormatError as error:
        problems.append(str(error))
    else:
        problems += _structure_problems(sealed)
    problems += _padding_problems(sealed)
    return VerifyReport(
        path=sealed.path,
        tensors=len(sealed.entries),
        nbytes=sum(entry.spec.nbytes for entry in sealed.entries.values()),
        damaged=tuple(damaged),
        problems=tuple(problems),
    )


def _structure_problems(sealed: SealedFile) -> list[str]:
    """Let another process hold the index against HDF5's objects."""
    # Isolated (-I): Python would look for modules in the current folder first, which may be the stranger's download.
    arguments = [json.dumps(sys.path), str(sealed.absolute), sealed.kind, repr(sealed.seal)]
    command = [sys.executable, "-I", "-c", _CHILD, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [f"{sealed.path}: HDF5 did not come to an end with the structure; convert or save it again"]
    except OSError as error:
        raise StorageError(f"{sealed.path}: cannot start a process to look at its structure: {error}") from error
    if done.returncode != 0:
        return [f"{sealed.path}: HDF5 failed on the structure (status {done.returncode}); convert or save it again"]
    return [f"{sealed.path}: {problem}" for problem in json.loads(done.stdout.splitlines()[-1])]


def _padding_problems(sealed: SealedFile) -> list[str]:
    """Look for bytes other than zero where alignment and whole chunks leave room between the datasets."""
    end = sealed.seal.metadata_size
    for spec, offset in sorted(sealed.datasets(), key=lambda dataset: dataset[1]):
        for start in range(end, offset, BLOCK_BYTES):
            padding = np.empty(min(BLOCK_BYTES, offset - start), np.uint8)
            sealed.file.read_into_at(start, padding)
            if padding.any():
                return [f"{sealed.path}: expected zeros between {end} and {offset}, got other bytes; copy it again"]
        end = offset + spec.nbytes
    return []
