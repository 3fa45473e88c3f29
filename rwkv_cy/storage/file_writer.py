"""Writing files with a checksum footer: structure, data block by block, checksums, and at the end the file's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_cy.errors import SpecError
from rwkv_cy.files.blocks import Block, Summed, bytes_of
from rwkv_cy.files.checksum import crc32
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.files.write_behind import WriteBehind
from rwkv_cy.records import dataclass
from rwkv_cy.storage.footer import Footer
from rwkv_cy.storage.index import Entry, index_capacity, pack_index
from rwkv_cy.storage.schema import BLOCK_BYTES, FOOTER_PATH, INDEX_PATH, PAGE, DatasetSpec, Progress, format_version

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Content", "all_datasets", "array_blocks", "array_content", "bytes_content", "write_file"]


@dataclass(frozen=True)
class Content:
    """A dataset and its content.

    Attributes
    ----------
    spec : DatasetSpec
    blocks : callable
        Gives the bytes in order; called once, after all contents before this one were written. The memory of a block
        must stay as it is until the block after the next is made.
    written : callable, optional
        Called with the CRC-32 of the bytes that were written, by the thread that wrote them.
    waits : bool, default False
        Whether its blocks wait for something. What was written before is put on the disk meanwhile.
    """

    spec: DatasetSpec
    blocks: Callable[[], Iterable[memoryview]]
    written: Callable[[int], None] | None = None
    waits: bool = False


def bytes_content(path: str, data: bytes) -> Content:
    """Return a dataset of bytes in memory."""
    return Content(DatasetSpec(path, "u8", (len(data),)), lambda: iter((memoryview(data),)))


def array_content(spec: DatasetSpec, array: npt.NDArray[Any]) -> Content:
    """Return a dataset of an array in memory."""
    return Content(spec, lambda: array_blocks(array))


def array_blocks(array: npt.NDArray[Any]) -> Iterator[memoryview]:
    """Yield the bytes of an array, block by block."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, BLOCK_BYTES):
        yield flat[start : start + BLOCK_BYTES].data


def write_file(
    path: Path, kind: str, contents: Sequence[Content], *, overwrite: bool, progress: Progress | None = None
) -> None:
    """Write a file of `kind` with `contents`, in this order.

    Raises
    ------
    StorageError
        If the target exists and may not be replaced, or the operating system reports an error. The target is then
        unchanged.
    SpecError
        If a dataset cannot be stored.
    """
    # Imported here, because importing h5py takes longer than loading a model, and only writing needs it.
    from rwkv_cy.storage.skeleton import build_skeleton

    specs = all_datasets(kind, [content.spec for content in contents])
    with Replacement(path, overwrite=overwrite) as file:
        skeleton = build_skeleton(file, kind, specs)
        file.size = skeleton.file_size
        *offsets, index_offset, footer_offset = skeleton.offsets
        index_size = specs[-2].nbytes

        def footer(complete: bool, index: bytes) -> bytes:
            return Footer(
                version=format_version(specs),
                complete=complete,
                file_size=skeleton.file_size,
                metadata_size=len(skeleton.metadata),
                metadata_crc=crc32(skeleton.metadata),
                index_offset=index_offset,
                index_size=index_size,
                index_crc=crc32(index),
            ).pack()

        file.write_at(footer_offset, footer(complete=False, index=b""))
        with WriteBehind() as behind:
            summed = [
                _write_content(file, behind, content, offset, progress)
                for content, offset in zip(contents, offsets, strict=True)
            ]
            behind.wait()
        placed = zip(contents, offsets, summed, strict=True)
        index = pack_index(
            kind, [Entry(content.spec, offset, sums.crc32) for content, offset, sums in placed], index_size
        )
        file.write_at(index_offset, index)
        file.write_at(0, skeleton.metadata)
        file.write_at(footer_offset, footer(complete=True, index=index))
        file.commit()


def all_datasets(kind: str, specs: Sequence[DatasetSpec]) -> list[DatasetSpec]:
    """Return the datasets of a file in their order: `specs`, the index and the footer.

    Raises
    ------
    SpecError
        If a dataset cannot be stored.
    """
    _check_paths(specs)
    index = DatasetSpec(INDEX_PATH, "u8", (index_capacity(kind, specs),))
    return [*specs, index, DatasetSpec(FOOTER_PATH, "u8", (PAGE,))]


def _check_paths(specs: Sequence[DatasetSpec]) -> None:
    """Raise SpecError if a dataset cannot be stored, has the path of another, or would also be a group."""
    groups = {spec.path.rpartition("/")[0] for spec in specs}
    seen: set[str] = set()
    for spec in specs:
        spec.check()
        if spec.path in seen or spec.path in groups:
            raise SpecError(f"{spec.path}: expected one tensor of that name, got two; rename one of them")
        seen.add(spec.path)


def _write_content(
    file: Replacement, behind: WriteBehind, content: Content, offset: int, progress: Progress | None
) -> Summed:
    """Submit the blocks of one dataset, and return what has their CRC-32 when they are written."""
    if content.waits:
        behind.wait()
        file.sync_data()
    end = position = offset

    def write(block: Block) -> None:
        nonlocal position
        data = bytes_of(block)
        file.write_at(position, data)
        position += len(data)

    def fitting() -> Iterator[memoryview]:
        nonlocal end
        for block in content.blocks():
            end += len(block)
            if end - offset > content.spec.nbytes:
                return
            yield block
            if progress is not None:
                progress(len(block))

    summed = Summed(fitting(), content.written)
    for block in summed:
        behind.submit(partial(write, block))
    if end - offset != content.spec.nbytes:
        raise SpecError(
            f"{content.spec.path}: expected {content.spec.nbytes} bytes, got a different number; match its shape"
        )
    return summed
