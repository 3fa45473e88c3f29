"""Layout steps: undo reverts apply, in shape and value."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.errors import FormatError
from rwkv_cy.formats.layouts.steps import NEGATED_EXPONENTIAL, TRANSPOSED, Step, merged, regrouped, repeated, vector

WHERE = "model: x"


def there_and_back(step: Step, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    there = step.apply.run(array, WHERE)
    assert there.shape == step.apply.shape(array.shape)
    back = step.undo.run(there, WHERE)
    assert back.shape == step.undo.shape(there.shape) == array.shape
    return there, back


@pytest.mark.parametrize(("ours", "theirs"), [(3, 1), (1, 3), (3, 3), (1, 1), (3, 2)])
def test_vectors(ours: int, theirs: int) -> None:
    array = np.arange(5.0).reshape((1,) * (ours - 1) + (5,))
    there, back = there_and_back(vector(ours, theirs), array)
    assert there.shape == (1,) * (theirs - 1) + (5,)
    np.testing.assert_array_equal(back, array)
    assert np.shares_memory(there, array)


@pytest.mark.parametrize("shape", [(), (2, 5), (5, 1), (1, 2, 5)])
def test_what_is_not_a_vector_keeps_its_shape(shape: tuple[int, ...]) -> None:
    assert vector(3, 1).apply.shape(shape) == vector(3, 1).undo.shape(shape) == shape


@pytest.mark.parametrize("shape", [(2, 3), (4, 2, 3), (1, 1)])
def test_transposed(shape: tuple[int, ...]) -> None:
    array = np.arange(float(np.prod(shape))).reshape(shape)
    there, back = there_and_back(TRANSPOSED, array)
    assert there.shape == (*shape[:-2], shape[-1], shape[-2])
    np.testing.assert_array_equal(there[..., 0, :], array[..., :, 0])
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_nothing_to_transpose(shape: tuple[int, ...]) -> None:
    there, _ = there_and_back(TRANSPOSED, np.zeros(shape))
    assert there.shape == shape


def test_groups_in_another_order() -> None:
    array = np.arange(30.0).reshape(10, 3)
    there, back = there_and_back(regrouped("wkvrg", "rwkvg"), array)
    np.testing.assert_array_equal(there[:4], array[[6, 7, 0, 1]])
    np.testing.assert_array_equal(there[8:], array[8:])
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("shape", [(), (3,), (6, 5)])
def test_what_cannot_be_divided_keeps_its_order(shape: tuple[int, ...]) -> None:
    array = np.arange(float(np.prod(shape))).reshape(shape)
    there, _ = there_and_back(regrouped("wkvrg", "rwkvg"), array)
    np.testing.assert_array_equal(there, array)


def test_merged_axes() -> None:
    array = np.arange(30.0).reshape(5, 2, 3)
    there, back = there_and_back(merged(5), array)
    assert there.shape == (10, 3)
    np.testing.assert_array_equal(back, array)
    assert merged(5).undo.shape((12, 3)) == (12, 3)
    assert merged(5).apply.shape((10, 3)) == (10, 3)


def test_a_vector_repeated_as_columns() -> None:
    array = np.arange(3.0)
    there, back = there_and_back(repeated(4), array)
    np.testing.assert_array_equal(there, array[:, None] * np.ones(4))
    np.testing.assert_array_equal(back, array)
    assert repeated(4).apply.shape((3, 4)) == (3, 4)
    assert repeated(4).undo.shape((3, 4, 5)) == (3, 4, 5)


def test_negated_exponential() -> None:
    numbers = np.array([-90.0, -5.0, 0.0, 1e-9, 3.0, 88.0])
    there, back = there_and_back(NEGATED_EXPONENTIAL, numbers)
    np.testing.assert_array_equal(there, -np.exp(numbers))
    np.testing.assert_allclose(back, numbers, rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-30, 1.0, float("inf")])
def test_what_is_not_a_negated_exponential(value: float) -> None:
    with pytest.raises(
        FormatError, match=rf"^model: x: expected -exp\(time_decay\), which is below 0, got {value}; the"
    ):
        NEGATED_EXPONENTIAL.undo.run(np.array([-1.0, value]), WHERE)


def test_values_out_of_range_stay_visible() -> None:
    nan, infinite = NEGATED_EXPONENTIAL.undo.run(np.array([np.nan, -np.inf]), WHERE)
    assert np.isnan(nan)
    assert infinite == np.inf
    assert NEGATED_EXPONENTIAL.apply.run(np.array([1e4]), WHERE)[0] == -np.inf
