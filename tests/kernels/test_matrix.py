"""Matrix products against plain NumPy, and the same bits for every split of the work."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.dtypes import STORAGE_TYPES, to_storage, widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels import matrix, reference
from rwkv_cy.kernels.matrix import Matrix, Workspace

#: Widths below, at and beside the lanes of every vector; some that take several steps along the columns, the last
#: of them whole, or of one vector alone.
SHAPES = [(1, 1), (3, 5), (7, 8), (12, 16), (5, 17), (33, 31), (64, 64), (50, 100), (9, 769), (13, 1000), (6, 1536)]


def make(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    values = rng.standard_normal(shape)
    return to_storage(
        values if dtype == "f64" else values.astype(np.float32), "f64" if dtype == "f64" else "f32", dtype
    )


def tolerance(real: str, cols: int) -> float:
    # Each product and each addition rounds once: cols roundings of numbers of the size of the sum of magnitudes.
    return (2.0**-53 if real == "f64" else 2.0**-24) * (cols + 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_against_the_reference(isa: str, dtype: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    weights = make(rng, shape, dtype)
    real = "f64" if dtype == "f64" else "f32"
    wide = widen(weights, dtype, "f64")
    for tokens in (1, 2, 3, 4, 7, 20, 30):
        x = rng.standard_normal((tokens, shape[1])).astype(STORAGE_TYPES[real].array_dtype)
        y = Matrix(weights, dtype).matmul(x)
        expected = reference.matmul(wide, x.astype(np.float64))
        magnitude = reference.matmul(np.abs(wide), np.abs(x).astype(np.float64))
        assert (np.abs(y - expected) <= tolerance(real, shape[1]) * magnitude).all()


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_many_tokens_any_threads_same_bits(isa: str, dtype: str) -> None:
    rng = np.random.default_rng(2)
    for shape in ((37, 50), (200, 1000)):
        matrix = Matrix(make(rng, shape, dtype), dtype)
        x = rng.standard_normal((33, shape[1])).astype(np.float64 if dtype == "f64" else np.float32)
        one_by_one = np.concatenate([matrix.matmul(row[np.newaxis]) for row in x])
        workspace = Workspace()
        for threads in (1, 2, 3, 8):
            assert matrix.matmul(x, threads, workspace).tobytes() == one_by_one.tobytes()
            assert matrix.matmul(x[:3], threads, workspace).tobytes() == one_by_one[:3].tobytes()


def test_scale_is_exact(isa: str) -> None:
    rng = np.random.default_rng(3)
    weights, x = make(rng, (9, 20), "f32"), rng.standard_normal((6, 20)).astype(np.float32)
    assert (Matrix(weights, "f32", 0.25).matmul(x) == Matrix(weights, "f32").matmul(x) * 0.25).all()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_every_16_bit_number(isa: str, dtype: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    weights = bits.view(STORAGE_TYPES[dtype].array_dtype).reshape(-1, 1)
    y = Matrix(weights, dtype).matmul(np.ones((1, 1), np.float32))[0]
    expected = widen(weights, dtype).reshape(-1)
    # Numbers that are subnormal as float32 count as zero; those of float16 are normal there.
    subnormal = np.abs(expected) < np.finfo(np.float32).smallest_normal
    np.testing.assert_array_equal(y, np.where(subnormal, np.float32(0), expected))


def test_empty_products() -> None:
    assert Matrix(np.empty((4, 0), np.float32), "f32").matmul(np.empty((2, 0), np.float32)).tolist() == [[0] * 4] * 2
    assert Matrix(np.empty((4, 3), np.float32), "f32").matmul(np.empty((0, 3), np.float32)).shape == (0, 4)


def test_read_only_weights_are_taken() -> None:
    weights = np.eye(3, dtype=np.float32)
    weights.flags.writeable = False
    assert (Matrix(weights, "f32").matmul(np.ones((1, 3), np.float32)) == 1).all()


def test_a_workspace_that_could_not_grow_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    product, workspace = Matrix(np.ones((9, 40), np.float32), "f32"), Workspace()
    few, many = np.ones((32, 40), np.float32), np.ones((5000, 40), np.float32)
    product.matmul(few, 1, workspace)
    size = workspace.size
    assert size > 0
    empty = np.empty

    def full(shape: int | tuple[int, ...], dtype: type) -> np.ndarray:
        if dtype is np.uint8:
            raise MemoryError
        return empty(shape, dtype)

    monkeypatch.setattr(matrix.np, "empty", full)
    with pytest.raises(MemoryError):
        product.matmul(many, 1, workspace)
    # What it had is gone, and it must not say otherwise.
    assert workspace.size == 0
    monkeypatch.undo()
    assert (product.matmul(few, 1, workspace) == 40).all()
    assert workspace.size == size


def test_properties() -> None:
    matrix = Matrix(np.zeros((4, 3), np.float16), "f16", 0.5)
    assert (matrix.shape, matrix.scale, matrix.dtype) == ((4, 3), 0.5, "f16")


def test_what_is_refused() -> None:
    with pytest.raises(KernelError, match="expected a dtype of f32.* got 'q9'"):
        Matrix(np.zeros((2, 2), np.float32), "q9")
    with pytest.raises(KernelError, match=r"expected a contiguous, aligned array \(rows, cols\), got shape \(2,\)"):
        Matrix(np.zeros(2, np.float32), "f32")
    with pytest.raises(KernelError, match="expected a contiguous, aligned array"):
        Matrix(np.zeros((4, 4), np.float32)[:, ::2], "f32")
    with pytest.raises(KernelError, match="expected uint16 for bf16, got float32"):
        Matrix(np.zeros((2, 2), np.float32), "bf16")
    with pytest.raises(KernelError, match="expected activations of f32 or bf16, got 'f16'"):
        Matrix(np.zeros((2, 2), np.float32), "f32", activations="f16")
    matrix = Matrix(np.zeros((2, 3), np.float32), "f32")
    with pytest.raises(KernelError, match=r"expected \(tokens, 3\), got \(1, 2\)"):
        matrix.matmul(np.zeros((1, 2), np.float32))
    with pytest.raises(KernelError, match="expected float32 activations for f32 weights"):
        matrix.matmul(np.zeros((1, 3)))
    with pytest.raises(KernelError, match="expected float64 activations for f64 weights"):
        Matrix(np.zeros((2, 3)), "f64").matmul(np.zeros((1, 3), np.float32))
    with pytest.raises(KernelError, match="expected at least one thread, got 0"):
        matrix.matmul(np.zeros((1, 3), np.float32), 0)


def round_to_bf16(x: np.ndarray) -> np.ndarray:
    return widen(to_storage(x.astype(np.float32), "f32", "bf16"), "bf16", "f64")


#: From so many tokens on every instruction set packs them, and rounds activations to bf16 where that is requested.
MANY = 24


@pytest.mark.parametrize("shape", [*SHAPES, (13, 2049), (20, 4100)], ids=str)
def test_rounded_activations_against_the_reference(isa: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    weights = make(rng, shape, "bf16")
    wide = widen(weights, "bf16", "f64")
    for tokens in (MANY, MANY + 1, MANY + 6):
        x = rng.standard_normal((tokens, shape[1])).astype(np.float32)
        y = Matrix(weights, "bf16", activations="bf16").matmul(x)
        rounded = round_to_bf16(x)
        expected = reference.matmul(wide, rounded)
        magnitude = reference.matmul(np.abs(wide), np.abs(rounded))
        # Products of bf16 numbers are exact in float32; what rounds are the additions, and they are as many.
        assert (np.abs(y - expected) <= tolerance("f32", shape[1]) * magnitude).all()


def test_activations_of_few_tokens_are_not_rounded(isa: str) -> None:
    rng = np.random.default_rng(7)
    weights = make(rng, (13, 65), "bf16")
    x = rng.standard_normal((MANY, 65)).astype(np.float32)
    plain, rounding = Matrix(weights, "bf16"), Matrix(weights, "bf16", activations="bf16")
    for tokens in (1, 2, 7):
        assert rounding.matmul(x[:tokens]).tobytes() == plain.matmul(x[:tokens]).tobytes()
    assert rounding.matmul(x).tobytes() != plain.matmul(x).tobytes()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", [(13, 2049), (13, 6500), (7, 33), (25, 1088)], ids=str)
def test_every_number_of_tokens_gives_the_same_bits(isa: str, dtype: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    matrix = Matrix(make(rng, shape, dtype), dtype)
    x = rng.standard_normal((40, shape[1])).astype(np.float32)
    one_by_one = np.concatenate([matrix.matmul(row[np.newaxis]) for row in x])
    for tokens in range(1, 41):
        assert matrix.matmul(x[:tokens], 2).tobytes() == one_by_one[:tokens].tobytes()


@pytest.mark.parametrize("shape", [(1, 1), (13, 2049), (13, 6500), (7, 33), (129, 64), (300, 97), (513, 768)], ids=str)
def test_rounded_activations_of_many_tokens_same_bits(isa: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    weights = make(rng, shape, "bf16")
    x = np.maximum(rng.standard_normal((MANY + 16, shape[1])), 0).astype(np.float32) ** 2
    x[3] = 0
    x[4, ::2] = -0.0
    by_rows = Matrix(weights, "bf16", activations="bf16")
    transposed = Matrix(np.ascontiguousarray(weights.T), "bf16", transposed=True, activations="bf16")
    expected = by_rows.matmul(x).tobytes()
    row = 4 * shape[0]
    for tokens in (MANY, MANY + 5, MANY + 16):
        for threads in (1, 2):
            assert by_rows.matmul(x[:tokens], threads).tobytes() == expected[: tokens * row]
            assert transposed.matmul(x[:tokens], threads).tobytes() == expected[: tokens * row]


@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
def test_other_matrices_ignore_the_type_of_activations(isa: str, dtype: str) -> None:
    rng = np.random.default_rng(6)
    weights = make(rng, (9, 50), dtype)
    x = rng.standard_normal((6, 50)).astype(np.float64 if dtype == "f64" else np.float32)
    assert Matrix(weights, dtype, activations="bf16").matmul(x).tobytes() == Matrix(weights, dtype).matmul(x).tobytes()


def test_rounding_is_to_nearest_even_and_keeps_what_is_not_finite(isa: str) -> None:
    one = to_storage(np.ones((1, 1), np.float32), "f32", "bf16")
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F800000, 0xFF800000], np.uint32)
    x = np.resize(bits.view(np.float32), (MANY, 1))
    y = Matrix(one, "bf16", activations="bf16").matmul(x)
    expected = np.array([0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x7F80, 0x7F80, 0xFF80], np.uint16)
    assert to_storage(y, "f32", "bf16").reshape(-1).tolist() == np.resize(expected, MANY).tolist()
    nan = np.full((MANY, 1), 0x7F800001, np.uint32).view(np.float32)
    assert np.isnan(Matrix(one, "bf16", activations="bf16").matmul(nan)).all()


@pytest.mark.parametrize("tokens", [1, 3, 40])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "q4n"])
def test_inputs_are_recorded(isa: str, dtype: str, tokens: int) -> None:
    rng = np.random.default_rng(4)
    inputs = np.full((tokens + 2, 50), 7, np.float32)
    if dtype == "q4n":
        plain = matrix.pack(rng.standard_normal((33, 50), np.float32), dtype)
        product = Matrix(plain, dtype, shape=(33, 50), inputs=inputs)
    else:
        product = Matrix(make(rng, (33, 50), dtype), dtype, inputs=inputs)
    x = rng.standard_normal((2 * tokens, 50)).astype(np.float64 if dtype == "f64" else np.float32)
    product.matmul(x[:tokens])
    np.testing.assert_array_equal(inputs[:tokens], x[:tokens].astype(np.float32))
    assert (inputs[tokens:] == 7).all()
    product.matmul(x[tokens:], 3)
    kept = min(tokens + 2, 2 * tokens)
    np.testing.assert_array_equal(inputs[:kept], x[:kept].astype(np.float32))
    assert (inputs[kept:] == 7).all()


@pytest.mark.parametrize("inputs", [np.zeros((2, 4), np.float32), np.zeros((2, 5)), np.zeros(5, np.float32)])
def test_a_record_of_another_shape_or_type(inputs: np.ndarray) -> None:
    with pytest.raises(KernelError, match=r"Matrix: expected a record of inputs \(tokens, 5\) of float32, got float"):
        Matrix(np.zeros((3, 5), np.float32), "f32", inputs=inputs)
