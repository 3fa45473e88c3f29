"""Small files of arrays and attributes, such as states, with the checksums of model files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from rwkv_cy.dtypes import STORAGE_TYPES
from rwkv_cy.errors import FormatError, SpecError
from rwkv_cy.files.reading import new_file_path
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.file_writer import Content, array_content, bytes_content, write_file
from rwkv_cy.storage.jsontext import pack_json
from rwkv_cy.storage.replaceable import check_replaceable
from rwkv_cy.storage.schema import ARRAYS, HEADER_PATH, MAX_HEADER_BYTES, DatasetSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Attributes", "read_arrays", "write_arrays"]

Attributes = Mapping[str, int | float | str]

#: The state of the largest published model, RWKV-7 13.3B, takes 66 MB.
_MAX_BYTES = 1 << 30


def write_arrays(
    path: str | os.PathLike[str],
    kind: str,
    attributes: Attributes,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    overwrite: bool = False,
) -> None:
    """Write arrays of float16, float32 or float64. Afterwards `path` is complete, or unchanged after an error.

    Parameters
    ----------
    path : path-like
    kind : str
        Kind of file (``"state"``); :func:`read_arrays` checks it.
    attributes : mapping of str to int, float or str
    arrays : mapping of str to ndarray
        With at least one dimension, none of them 0.
    overwrite : bool
        Whether an older file of the same kind may be replaced.

    Raises
    ------
    StorageError
        If the target exists and may not be replaced, or the operating system reports an error.
    SpecError
        If an array or an attribute cannot be stored.
    """
    if not _are_attributes(dict(attributes)):
        raise SpecError(f"attributes: expected names with numbers or text, got {str(attributes)[:80]}; convert them")
    if sum(array.nbytes for array in arrays.values()) > _MAX_BYTES // 2:
        raise SpecError(f"arrays: expected at most {_MAX_BYTES // 2} bytes in total, got more; save them elsewhere")
    contents: list[Content] = []
    for name, array in arrays.items():
        dtype = _storage_name(array.dtype)
        if dtype is None:
            raise SpecError(f"{name}: expected an array of float16, float32 or float64, got {array.dtype}; convert it")
        contents.append(array_content(DatasetSpec(f"{ARRAYS}/{name}", dtype, array.shape), array))
    contents.append(
        bytes_content(HEADER_PATH, pack_json({"attributes": dict(attributes)}, "attributes", limit=MAX_HEADER_BYTES))
    )
    if overwrite:
        check_replaceable(path, kind)
    write_file(new_file_path(path), kind, contents, overwrite=overwrite)


def read_arrays(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, int | float | str], dict[str, npt.NDArray[Any]]]:
    """Read a file of :func:`write_arrays`, and check every byte of it.

    Returns
    -------
    attributes : dict of str to int, float or str
    arrays : dict of str to ndarray
        Writable, independent of the file.

    Raises
    ------
    FormatError
        If the file is damaged, truncated, unfinished, or of another kind.
    UnsupportedError
        If it has a newer major version.
    StorageError
        If the operating system refuses it.
    """
    with CheckedFile(Path(path), kind) as checked:
        if checked.file.size > _MAX_BYTES:
            raise FormatError(
                f"{path}: expected at most {_MAX_BYTES} bytes of arrays, got {checked.file.size}; name another file"
            )
        attributes = checked.header.get("attributes")
        if not _are_attributes(attributes):
            raise FormatError(f"{path}: header: expected attributes, got another header; save the file again")
        arrays = {}
        for dataset, entry in checked.entries.items():
            if dataset == HEADER_PATH:
                continue
            group, _, name = dataset.partition("/")
            if group != ARRAYS or entry.spec.dtype not in STORAGE_TYPES:
                raise FormatError(f"{path}: {dataset}: expected an array, got another dataset; save the file again")
            arrays[name] = checked.read_array(entry)
    return attributes, arrays


def _are_attributes(value: object) -> TypeGuard[dict[str, int | float | str]]:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(item, (int, float, str)) for name, item in value.items()
    )


def _storage_name(dtype: np.dtype[Any]) -> str | None:
    """Return the storage type of floating point arrays of a type, None for other types."""
    found = (name for name, storage in STORAGE_TYPES.items() if storage.array_dtype == dtype and dtype.kind == "f")
    return next(found, None)
