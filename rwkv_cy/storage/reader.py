"""Reading of model files: the header, and the parameters by name, mapped or read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkv_cy.errors import FormatError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.index import Entry
from rwkv_cy.storage.schema import (
    HEADER_PATH,
    MAX_TOKENIZER_BYTES,
    MODEL_KIND,
    TOKENIZER_PATH,
    ModelHeader,
    Progress,
    parameter_name,
)
from rwkv_cy.storage.signature import MODEL_FORMAT
from rwkv_cy.storage.verification import VerifyReport, structure_problems, verify_file
from rwkv_cy.tensors.codecs import CODECS
from rwkv_cy.tensors.tensor import Advance, TensorInfo, check_buffer

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["ModelFile", "open_model"]


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Open a model file without reading its data.

    Parameters
    ----------
    path : path-like
        The file.

    Raises
    ------
    FormatError
        If the file is damaged, truncated, unfinished, or not a model file of rwkv-cy.
    UnsupportedError
        If it is of a newer major version.
    StorageError
        If the operating system refuses it.
    """
    return ModelFile(Path(path))


class ModelFile:
    """An open model file: a :class:`~rwkv_cy.tensors.tensor.ParameterSource`.

    Attributes
    ----------
    path : Path
    format : str
        ``"hdf5"``.
    header : ModelHeader
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.format = MODEL_FORMAT
        self.left_out: Mapping[str, str] = {}
        self._checked = CheckedFile(path, MODEL_KIND)
        try:
            data = b""
            if TOKENIZER_PATH in self._checked.entries:
                data = self._checked.read_small(TOKENIZER_PATH, MAX_TOKENIZER_BYTES)
            self.header = ModelHeader.from_json(self._checked.header, data, path)
            self._entries = _parameters(self._checked)
            self._infos: dict[str, TensorInfo] = {}
        except BaseException:
            self._checked.close()
            raise

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header, flat, for display."""
        header = self.header
        return {
            "architecture": header.architecture,
            **{f"config.{key}": str(value) for key, value in header.config.items()},
            "fingerprint": header.fingerprint,
            **({} if header.tokenizer is None else {"tokenizer": header.tokenizer.kind}),
            **{f"source.{key}": value for key, value in header.source.items()},
            "created_by": header.created_by,
        }

    @property
    def checksums(self) -> Mapping[str, int]:
        """CRC-32 of each parameter's bytes, by name."""
        return {name: entry.crc32 for name, entry in self._entries.items()}

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """Identity of the file when it was opened."""
        return (self._checked.file.identity,)

    def names(self) -> tuple[str, ...]:
        """Canonical names, in the file's order."""
        return tuple(self._entries)

    def info(self, name: str) -> TensorInfo:
        """Describe the parameter `name`; KeyError if there is none."""
        info = self._infos.get(name)
        if info is None:
            spec = self._entries[name].spec
            nbytes, shape = spec.nbytes, spec.canonical_shape
            info = TensorInfo(name, shape, spec.dtype, spec.path, spec.dtype, nbytes, spec.transposed, nbytes)
            self._infos[name] = info
        return info

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` (1-D, of the parameter's array dtype) with elements from `start`, by positioned reads."""
        check_buffer(self.info(name), buffer, start)
        self._checked.file.read_into_at(self._entries[name].offset + start * buffer.itemsize, buffer)

    def view(self, name: str) -> npt.NDArray[Any] | None:
        """Return the parameter as a read-only array over the file's memory map.

        The array is that of its codec, or the transpose. None on a file system that cannot map, and for a parameter
        that is misaligned for its type: one of less than a page may be.
        """
        entry = self._entries[name]
        codec = CODECS[entry.spec.dtype]
        if entry.offset % codec.alignment:
            return None
        return self._checked.file.view(entry.offset, codec.array_dtype, entry.spec.shape)

    def check_bytes(self, name: str, advance: Advance | None = None) -> bool:
        """Read the bytes of a parameter and compare their checksum; FormatError if it differs."""
        entry = self._entries[name]
        self._checked.check_bytes(entry, advance)
        return True

    def checksum(self, name: str) -> int:
        """Return the CRC-32 of a parameter's bytes."""
        return self._entries[name].crc32

    def check(self) -> None:
        """Raise FormatError if the file has been truncated since it was opened: so that its map must not be used."""
        self._checked.file.check()

    def verify(self, progress: Progress | None = None) -> VerifyReport:
        """Read the whole file, compare the checksums, and compare the index with the HDF5 objects.

        Parameters
        ----------
        progress : callable, optional
            Called with the number of bytes that have just been read.

        Raises
        ------
        FormatError
            If the file was truncated meanwhile.
        StorageError
            If the operating system refuses a read.
        """
        return verify_file(self._checked, progress)

    def structure_problems(self) -> list[str]:
        """Check what belongs to no dataset: HDF5's objects against the index, and that all other bytes are zero.

        Raises
        ------
        FormatError
            If the file was truncated meanwhile.
        StorageError
            If the operating system refuses a read.
        """
        return structure_problems(self._checked)

    def close(self) -> None:
        """Close the file. Arrays from :meth:`view` stay valid."""
        self._checked.close()

    def __enter__(self) -> ModelFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _parameters(checked: CheckedFile) -> dict[str, Entry]:
    """Return the entries of parameters by name."""
    found = {}
    for path, entry in checked.entries.items():
        if path in (HEADER_PATH, TOKENIZER_PATH):
            continue
        name = parameter_name(path)
        if name is None or entry.spec.dtype == "u8":
            raise FormatError(
                f"{checked.path}: {path}: expected a parameter, got a dataset of another kind ({entry.spec.dtype}); "
                "convert the model again"
            )
        found[name] = entry
    return found
