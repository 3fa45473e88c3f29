"""Disk space of a file: what is reserved for it before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from rwkv_cy.storage.schema import PAGE, DatasetSpec

__all__ = ["metadata_bytes", "reserved_bytes"]


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
    return 2 * PAGE + metadata + sum(spec.span + PAGE for spec in specs)
