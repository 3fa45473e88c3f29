"""The floating point mode of kernels: subnormal weights are zero; the mode of the caller does not matter or change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import random_model
from float_mode import FLAGS, MODES, NEEDS_MODES, current, mode
from rwkv_cy.dtypes import to_storage
from rwkv_cy.errors import KernelError, NumericalError
from rwkv_cy.kernels.matrix import Matrix, pack
from rwkv_cy.model.language_model import LanguageModel

pytestmark = NEEDS_MODES

Floats = npt.NDArray[np.float32]
#: A product of one token, of few and of many are computed in different ways.
TOKENS = (1, 9, 40)
SHAPE = (96, 200)


def draw(*shape: int, scale: float = 1.0) -> Floats:
    return np.random.default_rng(5).standard_normal(shape, np.float32) * np.float32(scale)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("transposed", [False, True])
def test_subnormal_weights_count_as_zero(isa: str, tokens: int, dtype: str, transposed: bool) -> None:
    few = np.random.default_rng(4).random(SHAPE) < 0.1
    few[:8] = True  # rows without any other weight
    numbers = np.where(few, np.float32(1e-39), draw(*SHAPE))
    x = draw(tokens, SHAPE[1], scale=1e33)

    def product(weights: Floats) -> Floats:
        stored = to_storage(np.ascontiguousarray(weights.T) if transposed else weights, "f32", dtype)
        result: Floats = Matrix(stored, dtype, transposed=transposed).matmul(x)
        return result

    found = product(numbers)
    np.testing.assert_array_equal(found, product(np.where(few, np.float32(0), numbers)))
    assert not found[:, :8].any()
    assert found[:, 8:].all()


def test_subnormal_numbers_of_float16_keep_their_values(isa: str) -> None:
    halves = np.arange(-1023, 1024, dtype=np.float64) * 2.0**-24
    weights = halves.astype(np.float16)[:, None]
    assert (weights.astype(np.float64)[:, 0] == halves).all()
    for tokens in TOKENS:
        found = Matrix(weights, "f16").matmul(np.ones((tokens, 1), np.float32))
        np.testing.assert_array_equal(found, np.tile(halves.astype(np.float32), (tokens, 1)))


def test_float64_is_flushed_below_its_own_normal_numbers_only(isa: str) -> None:
    weights = np.full((3, 5), 1e-40)
    np.testing.assert_allclose(Matrix(weights, "f64").matmul(np.ones((1, 5))), 5e-40)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8"])
def test_the_mode_of_the_caller_neither_matters_nor_changes(name: str, tokens: int, threads: int, dtype: str) -> None:
    numbers = draw(1500, 300)
    stored = pack(numbers, dtype) if dtype == "q8" else to_storage(numbers, "f32", dtype)
    matrix = Matrix(stored, dtype, shape=numbers.shape if dtype == "q8" else None)
    x = draw(tokens, 300)
    expected = matrix.matmul(x).tobytes()
    with mode(name) as word:
        found = matrix.matmul(x, threads)
        after = current()
    assert found.tobytes() == expected
    assert after & ~FLAGS == word


def test_the_mode_in_which_threads_are_started_does_not_matter() -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import numpy as np
from float_mode import mode
from rwkv_cy.kernels.matrix import Matrix
rng = np.random.default_rng(5)
matrix, x = Matrix(rng.standard_normal((4000, 300), np.float32), "f32"), rng.standard_normal((1, 300), np.float32)
expected = matrix.matmul(x)
with mode("upward"):
    matrix.matmul(x, 4)
print(all((matrix.matmul(x, 4) == expected).all() for _ in range(200)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("name", MODES)
def test_the_mode_is_as_before_after_errors(name: str) -> None:
    matrix = Matrix(draw(*SHAPE), "f32")
    model = random_model()
    nan = np.full_like(model.parameters["ln_out.bias"].array, np.nan)
    damaged = LanguageModel(model.config, {**model.parameters, "ln_out.bias": nan})
    with mode(name) as word:
        with pytest.raises(KernelError):
            matrix.matmul(draw(1, 7))
        with pytest.raises(NumericalError):
            damaged.forward([1, 2, 3])
        after = current()
    # Python and NumPy have raised exceptions of their own.
    assert after & ~0x3F == word & ~0x3F


@pytest.mark.parametrize("name", MODES)
def test_a_whole_model_gives_the_same_logits_in_every_mode(name: str) -> None:
    model = random_model()
    tokens = list(range(1, 50))
    expected, state = model.forward(tokens, all_logits=True)
    with mode(name):
        logits, after = model.forward(tokens, all_logits=True)
    np.testing.assert_array_equal(logits, expected)
    assert after == state
