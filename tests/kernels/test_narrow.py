"""Rounding to 16 bits in one pass: the numbers, their counts and the error are those of the separate functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.dtypes import to_storage, widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.narrow import narrow_f32
from rwkv_cy.tensors.rounding import measure_rounding
from rwkv_cy.tensors.statistics import count_nonfinite


def everything() -> npt.NDArray[np.float32]:
    """Numbers from all over float32: NaN, Inf, subnormal ones, ties, and both sides of each limit of float16."""
    spread = np.arange(0, 1 << 32, 104729, np.uint64).astype(np.uint32)
    limits = [0x33000000, 0x33000001, 0x387FDFFF, 0x387FE000, 0x38800000, 0x477FEFFF, 0x477FF000, 0x47800000]
    edges = np.array([*limits, 0x7F800000, 0x7F800001, 0x7FC00000, 0x80000000, 0xFF800000], np.uint32)
    ties = (np.arange(0x38000, 0x48000, dtype=np.uint32) << 12) | np.uint32(0x1000)
    return np.concatenate([spread, edges, ties]).view(np.float32)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_number_is_rounded_as_by_numpy(dtype: str) -> None:
    numbers = everything()
    rounded, nan, infinite, overflowed, *_ = narrow_f32(numbers, dtype)
    expected = to_storage(numbers, "f32", dtype)
    is_nan = np.isnan(numbers)
    assert np.array_equal(rounded.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])
    assert np.isnan(widen(rounded, dtype)[is_nan]).all()
    before, after = count_nonfinite(numbers, "f32"), count_nonfinite(expected, dtype)
    assert (nan, infinite, overflowed) == (before.nan, before.inf, after.inf - before.inf)
    assert min(nan, infinite, overflowed) > 0


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("size", [0, 1, 7, 255, 256, 257, 5000])
def test_the_error_is_measured(dtype: str, size: int) -> None:
    numbers = np.random.default_rng(size).standard_normal(size).astype(np.float32) * 50
    numbers[3::500] = np.inf
    rounded, _, _, _, largest, squared_error, squares = narrow_f32(numbers, dtype)
    expected = measure_rounding(numbers, "f32", rounded, dtype)
    assert largest == expected.largest
    assert [squared_error, squares] == pytest.approx([expected.squared_error, expected.squares], rel=1e-5)
    assert size == 0 or squares > 0


def test_another_type_is_refused() -> None:
    with pytest.raises(KernelError, match="one of f16, bf16, got 0 and 'q8'"):
        narrow_f32(np.empty(0, np.float32), "q8")
