"""Storage types: conversions against reference definitions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rwkv_cy.dtypes import (
    STORAGE_TYPES,
    array_dtype,
    bf16_to_f32,
    check_dtype,
    f32_to_bf16,
    storage_type,
    to_storage,
    widen,
)
from rwkv_cy.errors import ConfigError


def test_every_bf16_survives_the_way_through_f32() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = bf16_to_f32(bits)
    back = f32_to_bf16(wide)
    numbers = ~np.isnan(wide)
    assert (back[numbers] == bits[numbers]).all()
    assert np.isnan(bf16_to_f32(back[~numbers])).all()
    assert ((back[~numbers] >> 15) == (bits[~numbers] >> 15)).all()


def test_bf16_rounds_to_the_nearest_and_ties_to_even() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(10_000) * 10.0 ** rng.integers(-30, 30, 10_000)).astype(np.float32)
    below = bf16_to_f32((values.view(np.uint32) >> 16).astype(np.uint16)).astype(np.float64)
    above = bf16_to_f32(((values.view(np.uint32) >> 16) + 1).astype(np.uint16)).astype(np.float64)
    rounded = bf16_to_f32(f32_to_bf16(values)).astype(np.float64)
    best = np.minimum(np.abs(values - below), np.abs(values - above))
    assert (np.abs(values - rounded) == best).all()
    # 1 + 2^-8 is between 1 and 1 + 2^-7, 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6: even wins.
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    assert bf16_to_f32(f32_to_bf16(ties)).tolist() == [1.0, 1 + 2**-6]


@pytest.mark.parametrize("name", STORAGE_TYPES)
def test_lossless_widening(name: str) -> None:
    rng = np.random.default_rng(1)
    stored = to_storage(rng.standard_normal(100).astype(np.float32), "f32", name)
    assert stored.dtype == STORAGE_TYPES[name].array_dtype
    for wide in STORAGE_TYPES[name].lossless_in:
        if wide in ("f32", "f64"):
            assert (to_storage(widen(stored, name, wide), wide, name) == stored).all()


def test_f16_overflow_is_infinite_and_silent() -> None:
    assert np.isinf(to_storage(np.array([1e6], np.float32), "f32", "f16")).all()


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="dtype: expected one of bf16, f16, f32, f64, got 'q3'"):
        storage_type("q3")


def test_f64_is_rounded_to_bf16_once() -> None:
    # A tie of bfloat16, and a number beside it that float32 cannot tell from the tie.
    tie = 1 + 2.0**-8
    values = np.array([tie, tie + 2.0**-40, tie - 2.0**-40, -tie - 2.0**-40, 0.0, 1e300, np.inf, np.nan])
    with np.errstate(over="ignore"):
        rounded = bf16_to_f32(to_storage(values, "f64", "bf16"))
    up = 1 + 2.0**-7
    np.testing.assert_array_equal(rounded, [1.0, up, 1.0, -up, 0.0, np.inf, np.inf, np.nan])


@pytest.mark.parametrize(
    ("name", "ours"),
    [(None, None), ("bf16", "bf16"), ("Q8", "q8"), ("fp16", "f16"), ("bfloat16", "bf16"), ("float32", "f32")],
)
def test_other_spellings_of_a_type(name: str | None, ours: str | None) -> None:
    assert check_dtype(name) == ours


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Q8_0", "got 'Q8_0'; did you mean 'q8'?"),
        ("paint", "got 'paint'"),
        (np.float16, "got <class 'numpy.float16'>; did you mean 'f16'?"),
    ],
)
def test_unknown_types(name: str, message: str) -> None:
    expected = f"dtype: expected one of bf12, bf16, f16, f32, f64, q4, q4n, q6, q8, {message}"
    with pytest.raises(ConfigError, match=re.escape(expected) + "$"):
        check_dtype(name)


@pytest.mark.parametrize("target", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize(("dtype", "words"), [("f16", "<u2"), ("bf16", "<u2"), ("f32", "<u4"), ("f64", "<u8")])
def test_a_signalling_nan_converts_without_a_warning(dtype: str, words: str, target: str) -> None:
    bits = {"f16": 0x7C01, "bf16": 0x7F81, "f32": 0x7F800001, "f64": 0x7FF0000000000001}[dtype]
    stored = np.array([bits], words).view(array_dtype(dtype))
    assert np.isnan(widen(to_storage(stored, dtype, target), target)).all()
    assert np.isnan(widen(stored, dtype)).all()


@pytest.mark.parametrize("target", ["f16", "bf16", "f32"])
def test_a_number_too_large_becomes_infinite_without_a_warning(target: str) -> None:
    large = np.array([1e300, -1e300])
    assert widen(to_storage(large, "f64", target), target).tolist() == [np.inf, -np.inf]
    assert widen(large, "f64").tolist() == [np.inf, -np.inf]
