"""The nucleus against a full sort in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import dispatch
from rwkv_cy.kernels.sample import nucleus

Floats = npt.NDArray[np.float32]


def taken(values: Floats, scale: float, top_p: float, *, keep_equals: bool = False) -> list[int]:
    scratch = np.full(4 * values.size, np.nan, np.float32)
    return nucleus(values, float(values.max()), scale, top_p, keep_equals, scratch).tolist()


def weights_of(values: Floats, scale: float) -> npt.NDArray[np.float64]:
    return np.exp((values.astype(np.float64) - values.max()) * scale)


@given(
    st.lists(st.sampled_from([-30.0, -3.0, -2.5, -1.0, -0.5, 0.0, -100.0, -0.001]), min_size=1, max_size=150),
    st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.85, 0.99]),
)
@settings(max_examples=300, deadline=None)
def test_few_values_many_equal(numbers: list[float], top_p: float) -> None:
    values = np.array([*numbers, 0.0], dtype=np.float32)
    weights = weights_of(values, 1.0)
    order = np.argsort(-values, kind="stable")
    expected = int(np.argmax(np.cumsum(weights[order]) >= top_p * weights.sum() * (1 - 1e-9))) + 1
    found = taken(values, 1.0, top_p)
    assert abs(len(found) - expected) <= 1  # float32 may end one token earlier or later
    assert found == sorted(order[: len(found)].tolist())
    smallest = values[order[len(found) - 1]]
    assert taken(values, 1.0, top_p, keep_equals=True) == np.flatnonzero(values >= smallest).tolist()


@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.85, 0.999, 1.0])
@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 5_000])
def test_many_values(scale: float, spread: float, top_p: float, size: int) -> None:
    values = (np.random.default_rng(7).standard_normal(size) * spread).astype(np.float32)
    weights = weights_of(values, scale)
    found = taken(values, scale, top_p)
    order = np.argsort(-values, kind="stable")
    assert found == sorted(order[: len(found)].tolist())
    target = top_p * weights.sum()
    assert weights[found].sum() >= target * (1 - 1e-5)
    assert weights[order[: len(found) - 1]].sum() <= target * (1 + 1e-5)


def test_every_instruction_set_takes_the_same(isa: str) -> None:
    """Weights and their sum have the same bits everywhere."""
    rng = np.random.default_rng(5)
    values = [rng.normal(0, 2, size).astype(np.float32) for size in (1, 17, 100, 1_003, 20_000)]
    found = [taken(each, 0.7, 0.9) for each in values]
    dispatch.select_instruction_set("portable")  # the fixture restores what was selected
    assert found == [taken(each, 0.7, 0.9) for each in values], isa


@pytest.mark.parametrize(("values", "highest"), [([-1, -2], np.nan), ([1, np.nan], 1), ([-1, -2], -1000)])
def test_what_is_not_a_number_is_refused(values: list[float], highest: float) -> None:
    with pytest.raises(KernelError, match="expected numbers or -inf"):
        nucleus(np.array(values, np.float32), highest, 1.0, 0.5, False, np.empty(4 * len(values), np.float32))


@pytest.mark.usefixtures("isa")
def test_banned_values() -> None:
    values = np.full(200, -np.inf, np.float32)
    values[[3, 70, 199]] = [1.0, 2.0, 1.5]
    for scale in (1e-300, 1e-30, 1.0, 1e30, 1e300):
        found = taken(values, scale, 0.9)
        assert 70 in found
        assert set(found) <= {3, 70, 199}
    assert taken(values, 1e-300, 0.9) == [3, 70, 199]
    assert taken(values, 1e300, 0.9) == [70]


def test_arrays_of_the_wrong_length() -> None:
    three = np.ones(3, dtype=np.float32)
    with pytest.raises(KernelError, match="expected 1 to 1073741824 values and 12 elements, got 3 and 11"):
        nucleus(three, 1.0, 1.0, 0.5, False, np.ones(11, np.float32))
    with pytest.raises(KernelError, match="got 0 and 3"):
        nucleus(three[:0], 1.0, 1.0, 0.5, False, three)


@pytest.mark.parametrize(
    ("scale", "top_p"), [(-1.0, 0.5), (np.nan, 0.5), (np.inf, 0.5), (1, -0.1), (1, 1.1), (1, np.nan)]
)
def test_numbers_out_of_range(scale: float, top_p: float) -> None:
    one = np.ones(1, dtype=np.float32)
    with pytest.raises(KernelError, match="expected 0 <= top_p <= 1 and a number, got"):
        nucleus(one, 1.0, scale, top_p, False, np.ones(4, dtype=np.float32))
