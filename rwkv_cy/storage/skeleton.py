"""The HDF5 structure of a file, made before its data: every object in one leading region, every dataset allocated.

HDF5 writes nothing but its own metadata, and only into space that has been reserved: a full disk cannot reach it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5p, h5s, h5t

from rwkv_cy.errors import StorageError
from rwkv_cy.files.replacement import NO_SPACE, Replacement
from rwkv_cy.records import dataclass
from rwkv_cy.storage.layout import FILE_TYPES, AttributeValue, dataset_attributes, dataset_offset, root_attributes
from rwkv_cy.storage.schema import PAGE, DatasetSpec, format_version
from rwkv_cy.storage.space import ALIGN_FROM, metadata_bytes, reserved_bytes

__all__ = ["Skeleton", "build_skeleton"]

_TRIES = 4


@dataclass(frozen=True)
class Skeleton:
    """Offsets of the structure and all datasets.

    Attributes
    ----------
    offsets : tuple of int
        Offset of each dataset.
    file_size : int
        Bytes in the file.
    metadata : bytes
        The leading region as it is in a finished file.
    """

    offsets: tuple[int, ...]
    file_size: int
    metadata: bytes


def build_skeleton(file: Replacement, kind: str, specs: Sequence[DatasetSpec]) -> Skeleton:
    """Reserve the space of a file and make its objects; the last of `specs` ends the file.

    The file on the disk says ``complete = 0``; :attr:`Skeleton.metadata` says 1, and is to be written last.

    Raises
    ------
    StorageError
        If there is not enough space, HDF5 fails, or its layout differs from this version of the format.
    """
    block = metadata_bytes(specs)
    for _ in range(_TRIES):
        file.reserve(reserved_bytes(specs, block))
        file.write_at(0, _empty_file())
        try:
            offsets = _create(file.path, kind, specs, block)
            skeleton = _inspect(file.descriptor, specs, offsets)
            if skeleton is not None:
                _set_complete(file.path, 0)
                return skeleton
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            for number in NO_SPACE:
                if f"errno = {number}," in reason:
                    raise file.error(OSError(number, os.strerror(number)), "write") from error
            raise StorageError(f"{file.name}: cannot create the HDF5 structure ({reason}); check the disk") from error
        block *= 2
    raise StorageError(
        f"{file.name}: expected HDF5 to lay its metadata out in front of the data, got another layout from "
        f"HDF5 {h5py.version.hdf5_version}; install another version of h5py"
    )


def _file_access(metadata_block: int) -> h5p.PropFAID:
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_file_locking(False, True)  # network file systems may have no locks
    access.set_alignment(ALIGN_FROM, PAGE)
    access.set_meta_block_size(metadata_block)
    return access


def _empty_file() -> bytes:
    """Return an HDF5 file without objects, made in memory. Opening it, unlike creating one, keeps reserved space.

    The bytes are those that HDF5 writes when it closes the file: an image of the open file (``get_file_image``) has a
    wrong checksum in its superblock before HDF5 2.0.
    """
    image = io.BytesIO()
    access = _file_access(PAGE)
    access.set_fileobj_driver(h5fd.fileobj_driver, image)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    h5f.create(b"in memory", h5f.ACC_TRUNC, fcpl=creation, fapl=access).close()
    return image.getvalue()


def _create(path: Path, kind: str, specs: Sequence[DatasetSpec], block: int) -> list[int | None]:
    """Create every object, with ``complete = 1``, and return the offset of each dataset, None if it is scattered."""
    file = h5f.open(os.fsencode(path), h5f.ACC_RDWR, fapl=_file_access(block))
    try:
        root = h5g.open(file, b"/")
        _set_attributes(root, root_attributes(kind, format_version(specs)))
        creation = h5p.create(h5p.GROUP_CREATE)
        creation.set_obj_track_times(False)
        for group in sorted({parent for spec in specs for parent in _parents(spec.path)}):
            h5g.create(file, group.encode("ascii"), gcpl=creation)
        contiguous = _dataset_creation()
        return [_dataset(file, spec, contiguous) for spec in specs]
    finally:
        file.close()


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def _set_attributes(owner: h5g.GroupID | h5d.DatasetID, attributes: Mapping[str, AttributeValue]) -> None:
    for name, value in attributes.items():
        space = h5s.create(h5s.SCALAR)
        if isinstance(value, int):
            kind, array = h5t.STD_U32LE, np.array(value, "<u4")
        elif isinstance(value, tuple):
            kind, array, space = h5t.STD_U64LE, np.array(value, "<u8"), h5s.create_simple((len(value),))
        else:
            array = np.array(value.encode("ascii"))
            kind = _string_type(array.itemsize)
        h5a.create(owner, name.encode("ascii"), kind, space).write(array, kind)


@cache
def _string_type(size: int) -> h5t.TypeStringID:
    kind = h5t.C_S1.copy()
    kind.set_size(size)
    kind.set_strpad(h5t.STR_NULLPAD)
    return kind


def _dataset_creation() -> h5p.PropDCID:
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5d.FILL_TIME_NEVER)
    creation.set_obj_track_times(False)
    return creation


def _dataset(file: h5f.FileID, spec: DatasetSpec, contiguous: h5p.PropDCID) -> int | None:
    """Create one dataset, allocated and not filled, and return its offset, or None if it is scattered."""
    creation = contiguous
    if spec.chunk is not None:
        creation = _dataset_creation()
        creation.set_chunk(spec.chunk)
    dataset = h5d.create(
        file, spec.path.encode("ascii"), FILE_TYPES[spec.dtype], h5s.create_simple(spec.shape), dcpl=creation
    )
    _set_attributes(dataset, dataset_attributes(spec))
    return dataset_offset(dataset, spec)


def _inspect(descriptor: int, specs: Sequence[DatasetSpec], offsets: Sequence[int | None]) -> Skeleton | None:
    """Return the skeleton of the file, or None if HDF5's metadata is not all first, or the last dataset not last."""
    spans = sorted((offset, spec.span) for offset, spec in zip(offsets, specs, strict=True) if offset is not None)
    if len(spans) != len(specs):
        return None
    size = os.fstat(descriptor).st_size
    end = metadata_size = spans[0][0]
    for offset, span in spans:
        if any(os.pread(descriptor, offset - end, end)):
            return None  # metadata between two datasets
        end = offset + span
    if end != size or offsets[-1] != size - specs[-1].span:
        return None
    return Skeleton(
        tuple(offset for offset in offsets if offset is not None), size, os.pread(descriptor, metadata_size, 0)
    )


def _set_complete(path: Path, value: int) -> None:
    file = h5f.open(os.fsencode(path), h5f.ACC_RDWR, fapl=_file_access(PAGE))
    try:
        h5a.open(h5g.open(file, b"/"), b"complete").write(np.array(value, "<u4"))
    finally:
        file.close()
