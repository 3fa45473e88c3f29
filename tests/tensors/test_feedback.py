"""Feedback of errors: against its definition, smaller errors of products, independent rows."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.kernels.matrix import pack, unpack
from rwkv_cy.tensors.codecs import CODECS, GroupedCodec
from rwkv_cy.tensors.feedback import Feedback, Inputs


def correlated(tokens: int, columns: int) -> np.ndarray:
    """Inputs of a few directions, and noise."""
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((6, columns))
    return (rng.standard_normal((tokens, 6)) @ directions + rng.standard_normal((tokens, columns)) / 4).astype("f4")


def encode(weights: np.ndarray, dtype: str, inputs: Inputs | None) -> np.ndarray:
    codec = CODECS[dtype]
    assert isinstance(codec, GroupedCodec)
    return codec.encode_rows(weights, "w", inputs)


@pytest.mark.parametrize("columns", [192, 200])
@pytest.mark.parametrize("dtype", ["q4n", "q4", "q6"])
def test_products_have_smaller_errors(dtype: str, columns: int) -> None:
    weights = np.random.default_rng(0).standard_normal((40, columns), np.float32)
    x = correlated(600, columns)
    errors = []
    for inputs in (None, Inputs(x[:200])):
        packed = encode(weights, dtype, inputs)
        assert packed.shape == pack(weights, dtype).shape
        error = x[200:] @ (unpack(packed, dtype, weights.shape) - weights).T
        errors.append(float((error**2).mean()))
    assert errors[1] < 0.5 * errors[0]


def test_q8_is_as_without() -> None:
    weights = np.random.default_rng(0).standard_normal((20, 70), np.float32)
    assert encode(weights, "q8", Inputs(correlated(9, 70))).tobytes() == pack(weights, "q8").tobytes()


def test_rows_are_independent() -> None:
    weights = np.random.default_rng(0).standard_normal((80, 96), np.float32)
    inputs = Inputs(correlated(50, 96))
    parts = [encode(weights[first : first + 16], "q4n", inputs) for first in range(0, 80, 16)]
    assert np.concatenate(parts).tobytes() == encode(weights, "q4n", inputs).tobytes()


def test_the_answer_is_the_best_of_the_later_columns() -> None:
    x = correlated(30, 64)
    feedback = Feedback.of(x, 32)
    sample = feedback.sample.astype(np.float64)
    diagonal = 0.2 * (x.astype(np.float64) ** 2).mean(axis=0) / (x.astype(np.float64) ** 2).mean() + 0.02
    moments = np.diag(diagonal) + sample @ sample.T
    error = np.random.default_rng(2).standard_normal(32)
    # The minimum of e H e^T over the last 32 of 64 columns.
    best = -np.linalg.solve(moments[32:, 32:], moments[32:, :32] @ error)
    np.testing.assert_allclose(-(error @ sample[:32]) @ feedback.answer[32:].T.astype(np.float64), best, rtol=1e-3)
    rest = moments[:32, :32] - moments[:32, 32:] @ np.linalg.solve(moments[32:, 32:], moments[32:, :32])
    np.testing.assert_allclose(feedback.importance[:32], np.diag(rest), rtol=1e-3)


def test_inputs_that_are_all_zero() -> None:
    weights = np.random.default_rng(0).standard_normal((16, 64), np.float32)
    packed = encode(weights, "q4n", Inputs(np.zeros((5, 64), np.float32)))
    plain, found = (unpack(blocks, "q4n", weights.shape) for blocks in (pack(weights, "q4n"), packed))
    assert ((found - weights) ** 2).sum() < 1.01 * ((plain - weights) ** 2).sum()
