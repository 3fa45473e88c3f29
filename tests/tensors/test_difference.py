from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import numbers, write_small
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.dtypes import f32_to_bf16
from rwkv_cy.tensors.difference import Comparison, Difference, measure_difference
from rwkv_cy.toolkit.convert import convert

NAN, INF = np.nan, np.inf


def of(first: list[float], second: list[float]) -> Difference:
    return measure_difference(np.array(first, "f4"), "f32", np.array(second, "f8"), "f64")


def test_it_measures() -> None:
    found = of([1, -4, 2, 0], [1, -2, 3, 0])
    assert (found.size, found.differing, found.nonfinite) == (4, 2, 0)
    assert (found.largest, found.place, found.mean, found.scale) == (2, 1, 0.75, 4)
    assert found.largest_relative == 0.5
    assert found.relative == pytest.approx(np.sqrt(5 / 21))


def test_types_are_widened() -> None:
    values = np.array([1, 1 / 3, -2], "f4")
    found = measure_difference(f32_to_bf16(values), "bf16", values, "f32")
    assert (found.differing, found.place) == (1, 1)
    assert 0 < found.largest < 2**-9


def test_signs_of_zero_do_not_matter() -> None:
    assert of([0.0], [-0.0]).differing == 0


def test_the_smallest_difference_counts() -> None:
    tiny = float(np.finfo("f4").smallest_subnormal)
    found = of([0, 1], [tiny, 1])
    assert (found.differing, found.largest, found.place) == (1, tiny, 0)
    # Its square is zero in float64.
    tiny = 5e-324
    found = measure_difference(np.array([0.0]), "f64", np.array([tiny]), "f64")
    assert (found.differing, found.relative) == (1, 1)


def test_nan_and_inf() -> None:
    assert of([NAN, INF, -INF], [NAN, INF, -INF]).differing == 0
    found = of([5, NAN, INF, 1, 2], [7, NAN, -INF, NAN, 2])
    assert (found.differing, found.nonfinite, found.place, found.largest) == (3, 2, 2, 2)
    assert found.relative == found.largest_relative == INF
    large = 1.7e308
    assert measure_difference(np.array([large]), "f64", np.array([-large]), "f64").nonfinite == 1


def test_numbers_whose_squares_overflow() -> None:
    found = measure_difference(np.array([1e200, 0]), "f64", np.array([1e200, 1e199]), "f64")
    assert found.relative == found.largest_relative == pytest.approx(0.1)


def test_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 100))
    other[[20, 70]] += 9, -9  # the first of equally large differences counts
    whole = measure_difference(one, "f64", other, "f64")
    parts = [measure_difference(one[at : at + 30], "f64", other[at : at + 30], "f64") for at in range(0, 100, 30)]
    found = sum(parts, Difference())
    assert (found.size, found.differing, found.place, found.largest) == (100, 100, whole.place, whole.largest)
    assert found.relative == pytest.approx(whole.relative)
    other[90] = NAN
    parts[3] = measure_difference(one[90:], "f64", other[90:], "f64")
    assert sum(parts, Difference()).place == 90
    assert (parts[3] + parts[0]).place == 0


@pytest.mark.parametrize("dtype", ["f32", "q8", "bf12"])
def test_sources_are_compared_in_canonical_orientation(small: Path, tmp_path: Path, dtype: str) -> None:
    convert(small, tmp_path / "m.h5", dtype=dtype)  # ffn.value is stored transposed, in types that allow it
    advanced: list[int] = []
    with open_source(small) as source, open_source(tmp_path / "m.h5") as target:
        comparison = Comparison(source, target, advanced.append)
        name = "blocks.1.ffn.value.weight"
        found = comparison.measure(name)
        assert found.size == source.info(name).size == sum(advanced)
        assert found.relative < 0.01
        assert (found.relative == 0) == (dtype == "f32")


def test_long_tensors_are_compared_in_blocks(tmp_path: Path) -> None:
    shape = (3000, 32)  # of 2**18 numbers a block
    one = write_small(tmp_path / "a", vocab=3000)
    other = numbers(shape=shape)
    with open_source(one) as source:
        buffer = np.empty(3000 * 32, np.float32)
        source.read_into("head.weight", buffer)
        other.reshape(-1)[:] = buffer
    other[2999, 31] += 1
    convert(write_small(tmp_path / "b", vocab=3000, head__weight=other), tmp_path / "b.h5", dtype="f64")
    sizes: list[int] = []
    with open_source(one) as source, open_source(tmp_path / "b.h5") as target:
        found = Comparison(source, target, sizes.append).measure("head.weight")
    assert (found.differing, found.place) == (1, 3000 * 32 - 1)


def test_identical_tensors_are_not_decoded(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.tensors.difference.measure_difference", None)
    sizes: list[int] = []
    with open_source(small) as source:
        found = Comparison(source, source, sizes.append).measure("head.weight")
        assert found == Difference(size=source.info("head.weight").size)
    assert sum(sizes) == found.size
