"""Whole-file operations need memory for a block, not for a tensor."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from checkpoints import small_parameters, write_safetensors
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.diff import diff
from rwkv_cy.toolkit.merge import merge
from rwkv_cy.toolkit.pages.diff_page import write_diff_page
from rwkv_cy.toolkit.pages.model_page import write_model_page
from rwkv_cy.toolkit.verify import verify

VOCAB = 262_144
MATRIX_BYTES = VOCAB * 32 * 4


def peak(action: Callable[[], object]) -> int:
    """Return the most memory that an action has at once."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write_large(path: Path, seed: int) -> Path:
    """Write the small model with an embedding and a head of 34 MB each."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((VOCAB, 32), np.float32)
    return write_safetensors(path, small_parameters() | {"emb.weight": matrix, "head.weight": matrix})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 68 MB."""
    return write_large(tmp_path_factory.mktemp("large") / "a", 0)


def test_diff(large: Path, tmp_path: Path) -> None:
    other = write_large(tmp_path / "b", 1)
    assert not diff(large, other).same
    assert peak(lambda: diff(large, other)) < MATRIX_BYTES / 2
    assert peak(lambda: diff(large, large)) < MATRIX_BYTES / 4


def test_pages(large: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    assert peak(lambda: write_model_page(large, target)) < MATRIX_BYTES / 2
    other = write_large(tmp_path / "b", 1)
    assert peak(lambda: write_diff_page(large, other, target, overwrite=True)) < MATRIX_BYTES / 2


@pytest.mark.parametrize("dtype", ["bf16", "q8"])
def test_verify_against(large: Path, tmp_path: Path, dtype: str) -> None:
    convert(large, tmp_path / "m.h5", dtype=dtype)
    assert peak(lambda: verify(tmp_path / "m.h5", against=large)) < MATRIX_BYTES / 2


def test_merge(large: Path, tmp_path: Path) -> None:
    factors = {"head.lora_A": np.ones((2, 32), "f4"), "head.lora_B": np.ones((VOCAB, 2), "f4")}
    whole = {"emb.weight": np.ones((VOCAB, 32), "f4")}
    adapter = write_safetensors(tmp_path / "adapter", factors | whole)
    assert peak(lambda: merge(large, adapter, tmp_path / "m.h5", alpha=1, weight=0.5)) < MATRIX_BYTES / 2
