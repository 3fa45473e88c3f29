"""The hash of a source, begun as soon as the command line is parsed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rwkv_cy.files.source_hash import SourceHash

__all__ = ["hash_ahead"]

_SWITCH_SECONDS = 0.0002


@contextmanager
def hash_ahead(source: Path) -> Iterator[SourceHash]:
    """Hash a source in another thread, in a block that hands the hash on to whoever reads the source.

    The hash takes longest and needs neither NumPy nor HDF5: it runs while they are imported. Within the block, threads
    hand over the interpreter lock after 0.2 ms instead of 5. Those that hash and write need it briefly after each part
    of a file, and would wait for it longer than some parts take.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        with SourceHash.ahead(source) as running:
            yield running
    finally:
        sys.setswitchinterval(before)
