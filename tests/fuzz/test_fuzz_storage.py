"""A short run of the fuzz target of model files; ``--fuzz-examples`` makes it long."""

from __future__ import annotations

from fuzz import fuzz_storage
from fuzz.mutate import fuzz


def test_damaged_files_end_in_errors_of_the_package(fuzz_examples: int) -> None:
    try:
        fuzz(fuzz_storage.fuzz_one, fuzz_storage.seeds(), fuzz_examples)
    finally:
        fuzz_storage.HDF5.close()


def test_checksums_are_made_to_fit() -> None:
    for seed in fuzz_storage.seeds():
        assert fuzz_storage.with_checksums(seed) == seed
