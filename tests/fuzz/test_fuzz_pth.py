"""A short run of the fuzz target of PyTorch checkpoints; ``--fuzz-examples`` makes it long."""

from __future__ import annotations

from fuzz import fuzz_pth
from fuzz.mutate import fuzz


def test_damaged_files_end_in_errors_of_the_package(fuzz_examples: int) -> None:
    fuzz(fuzz_pth.fuzz_one, fuzz_pth.SEEDS, fuzz_examples)
