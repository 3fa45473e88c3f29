"""The nucleus against a full sort in float64; many rows at once against each alone; copies that are checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import dispatch
from rwkv_cy.kernels.sample import NucleusSearch, all_finite

Floats = npt.NDArray[np.float32]


def taken(values: Floats, scale: float, top_p: float, *, keep_equals: bool = False) -> list[int]:
    ((places, largest),) = NucleusSearch().find([(values, scale, top_p, keep_equals)])
    assert largest == values.max()
    return places.tolist()


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


def random_row(rng: np.random.Generator) -> tuple[Floats, float, float, bool]:
    """Return a row that is spread, flat, full of equals or of banned values, or of extreme numbers."""
    size = int(rng.choice([1, 2, 63, 64, 65, 300, 5_000]))
    values = rng.normal(0, rng.choice([0.01, 1, 4, 20]), size).astype(np.float32)
    kind = rng.integers(6)
    if kind == 1:
        values = np.round(values)
    if kind == 2:
        values[:] = values[0]
    if kind == 3:
        values[rng.random(size) < 0.8] = -np.inf
    if kind == 4:
        values *= np.float32(1e30)
    if kind == 5:
        values = np.where(rng.random(size) < 0.5, values[0], values[-1])
    scale, top_p = rng.choice([0, 1e-30, 0.3, 1, 10, 1e30, 1e300]), rng.choice([0, 0.01, 0.5, 0.85, 0.999, 1])
    return values, float(scale), float(top_p), bool(rng.integers(2))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.usefixtures("isa")
def test_many_rows_as_each_alone(threads: int) -> None:
    rng = np.random.default_rng(3)
    search = NucleusSearch()
    for count in (40, 0, 1, 17, 2, 60):
        rows = [random_row(rng) for _ in range(count)]
        copies = [row[0].copy() for row in rows]
        found = search.find(rows, threads)
        alone = [NucleusSearch().find([row])[0] for row in rows]
        assert [(places.tolist(), largest) for places, largest in found] == [(p.tolist(), most) for p, most in alone]
        assert all(np.array_equal(row[0], copy) for row, copy in zip(rows, copies, strict=True))


@pytest.mark.usefixtures("isa")
def test_a_row_without_values_beside_others() -> None:
    good = np.array([0.0, 2.0, 1.0], np.float32)
    banned, infinite = np.full(100, -np.inf, np.float32), np.array([0, np.inf, 1], np.float32)
    found = NucleusSearch().find([(row, 1.0, 0.5, False) for row in (banned, good, infinite, banned[:0:-1].copy())], 2)
    assert [places.tolist() for places, _ in found] == [[], [1], [], []]
    assert [largest for _, largest in found] == [-np.inf, 2, np.inf, -np.inf]


@pytest.mark.usefixtures("isa")
def test_zeros_of_both_signs_are_equal() -> None:
    for values in ([0.0, -0.0, 0.0, -0.0, -9.0], [-0.0, 0.0, -0.0, 0.0, -9.0]):
        zeros = np.array(values, np.float32)
        assert taken(zeros, 1.0, 0.0) == [0]
        assert taken(zeros, 1.0, 0.6) == [0, 1, 2]
        assert taken(zeros, 1.0, 0.6, keep_equals=True) == [0, 1, 2, 3]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("size", [0, 1, 15, 64, 200, 1_003])
def test_copies_are_checked(size: int) -> None:
    values = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    copy = np.full(size, np.nan, np.float32)
    assert all_finite(values)
    assert all_finite(values, copy)
    assert copy.tobytes() == values.tobytes()
    for place in {0, size // 2, size - 1} if size else ():
        for bad in (np.nan, np.inf, -np.inf):
            wrong = values.copy()
            wrong[place] = bad
            assert not all_finite(wrong)
            assert not all_finite(wrong, copy)
            assert copy.tobytes() == wrong.tobytes()
    with pytest.raises(KernelError, match=f"copy: expected {size} elements, got {size + 1}"):
        all_finite(values, np.empty(size + 1, np.float32))


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


def test_more_threads_than_rows_take_no_memory() -> None:
    values = np.arange(100_000, dtype=np.float32)
    ((places, _),) = NucleusSearch().find([(values, 1.0, 0.5, False)], 2**31 - 1)
    assert places.tolist() == [99_999]


def test_no_values() -> None:
    with pytest.raises(KernelError, match="values: expected 1 to 1073741824, got 0"):
        NucleusSearch().find([(np.empty(0, np.float32), 1.0, 0.5, False)])


def test_no_thread() -> None:
    with pytest.raises(KernelError, match="NucleusSearch: expected at least one thread, got 0"):
        NucleusSearch().find([], 0)


@pytest.mark.parametrize(
    ("scale", "top_p"), [(-1.0, 0.5), (np.nan, 0.5), (np.inf, 0.5), (1, -0.1), (1, 1.1), (1, np.nan)]
)
def test_numbers_out_of_range(scale: float, top_p: float) -> None:
    one = np.ones(1, dtype=np.float32)
    with pytest.raises(KernelError, match="expected 0 <= top_p <= 1 and a number, got"):
        NucleusSearch().find([(one, 1.0, 0.5, False), (one, scale, top_p, False)])
