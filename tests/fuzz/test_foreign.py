"""A short run of each fuzz target of the foreign formats; ``--fuzz-examples`` makes it long."""

from __future__ import annotations

from types import ModuleType

import pytest

from fuzz import fuzz_gguf, fuzz_huggingface, fuzz_rwkvcpp, fuzz_safetensors
from fuzz.mutate import fuzz


@pytest.mark.parametrize(
    "target",
    [fuzz_safetensors, fuzz_rwkvcpp, fuzz_huggingface, fuzz_gguf],
    ids=["safetensors", "rwkvcpp", "huggingface", "gguf"],
)
def test_damaged_files_end_in_errors_of_the_package(target: ModuleType, fuzz_examples: int) -> None:
    fuzz(target.fuzz_one, target.SEEDS, fuzz_examples)
