"""How a model file is told from others, without its reader."""

from __future__ import annotations

import os
from pathlib import Path

from rwkv_cy.errors import FormatError
from rwkv_cy.files.reading import FileBytes

__all__ = ["MODEL_FORMAT", "SIGNATURE", "is_model_file"]

#: What an open model file says its format is.
MODEL_FORMAT = "hdf5"
#: What an HDF5 file begins with.
SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins with the HDF5 signature.

    Raises
    ------
    StorageError
        If the operating system refuses to read it.
    """
    try:
        with FileBytes(Path(path)) as file:
            return file.read_at(0, min(file.size, len(SIGNATURE))) == SIGNATURE
    except FormatError:
        return False
