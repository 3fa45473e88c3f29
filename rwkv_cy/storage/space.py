"""Disk space of a file: what is reserved for it before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from rwkv_cy.storage.schema import PAGE, DatasetSpec

__all__ = ["ALIGN_FROM", "metadata_bytes", "reserved_bytes"]

#: Datasets of this size or more begin at a page boundary. HDF5's own objects are smaller, and so are contiguous. No gap
#: in front of a boundary is as large: HDF5, which tries every gap that might be, would take time that grows with the
#: square of the number of datasets.
ALIGN_FROM = PAGE


def metadata_bytes(specs: Sequence[DatasetSpec]) -> int:
    """Return a bound of the bytes of HDF5's metadata: measured at 460 a dataset, its share of groups included."""
    return -(-(4096 + sum(640 + 2 * len(spec.path) for spec in specs)) // PAGE) * PAGE


def reserved_bytes(specs: Sequence[DatasetSpec], metadata: int | None = None) -> int:
    """Return the bytes to reserve for a file of these datasets, index and footer among them; the file may be smaller.

    Parameters
    ----------
    specs : sequence of DatasetSpec
    metadata : int, optional
        Bytes of HDF5's metadata, where :func:`metadata_bytes` is too few.
    """
    metadata = metadata_bytes(specs) if metadata is None else metadata
    # Large datasets begin at a page; HDF5 puts small ones where it has space, a page of their own at most.
    pages = sum(-(-spec.span // PAGE) if spec.span >= ALIGN_FROM else 1 for spec in specs)
    return 2 * PAGE + metadata + pages * PAGE
