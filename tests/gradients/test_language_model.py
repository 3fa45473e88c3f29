"""Gradients of a language model: central differences, cross-entropy, batches, memory, threads, frozen weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkv_cy.config import Config
from rwkv_cy.dtypes import widen
from rwkv_cy.kernels.matrix import unpack
from rwkv_cy.kernels.packed import unpack_matrix
from rwkv_cy.model.gradients import Gradients
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.tape import LEAST_TOKENS
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.text.score import score

CONFIG = Config(d_model=24, num_layers=3, vocab_size=70, d_att=16, d_ffn=40, rescale_layer=2, compute_dtype="f64")
TOKENS = [3, 17, 69, 0, 3, 42, 5, 5, 61]
TARGETS = [17, 69, 0, 3, 42, 5, 5, 61, 8]


def random_parameters(config: Config, seed: int = 7, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    """Return parameters that are all used: initial values leave many matrices at zero."""
    rng = np.random.default_rng(seed)
    initial = LanguageModel.new(config, 0).parameters
    return {
        name: (parameter.array + 0.3 * rng.standard_normal(parameter.array.shape)).astype(dtype)
        for name, parameter in initial.items()
    }


@pytest.fixture(scope="module")
def parameters() -> dict[str, np.ndarray]:
    return random_parameters(CONFIG)


@pytest.fixture(scope="module")
def model(parameters: dict[str, np.ndarray]) -> LanguageModel:
    return LanguageModel(CONFIG, parameters)


def loss_of(parameters: dict[str, np.ndarray]) -> float:
    """Return the mean cross-entropy by inference, which does not share the code of the recorded pass."""
    model = LanguageModel(CONFIG, parameters, fingerprint="x")
    losses = -score(model, [*TOKENS, TARGETS[-1]])[1:]
    return float(losses.mean())


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(actual - expected).max() <= tolerance * np.abs(expected).max())


def test_logits_are_those_of_inference(model: LanguageModel) -> None:
    logits, state, _ = model.record(TOKENS)
    expected, after = model.forward(TOKENS, all_logits=True)
    assert logits.tobytes() == expected.tobytes()
    assert state == after


def test_every_parameter_by_central_differences(model: LanguageModel, parameters: dict[str, np.ndarray]) -> None:
    _, _, tape = model.record(TOKENS, logits=False)
    losses, gradients = tape.cross_entropy(TARGETS)
    assert losses.mean() == pytest.approx(loss_of(parameters), rel=1e-12)
    assert set(gradients.parameters) == set(parameters)
    rng = np.random.default_rng(1)
    for name, array in parameters.items():
        direction = rng.standard_normal(array.shape)
        step = 1e-5
        up, down = (loss_of({**parameters, name: array + sign * step * direction}) for sign in (1, -1))
        expected = (up - down) / (2 * step)
        actual = float((gradients.parameters[name] * direction).sum())
        scale = float(np.linalg.norm(gradients.parameters[name]) * np.linalg.norm(direction))
        assert scale > 0, name
        assert abs(actual - expected) <= 1e-6 * scale + 1e-10, name


def test_the_initial_state_by_central_differences(model: LanguageModel) -> None:
    _, state = model.forward([9, 8, 7])
    _, _, tape = model.record(TOKENS, state, logits=False)
    _, gradients = tape.cross_entropy(TARGETS)
    direction = np.random.default_rng(2).standard_normal(state.data.shape)
    losses = []
    for sign in (1, -1):
        moved = state.copy()
        moved.data[...] += sign * 1e-6 * direction
        _, _, other = model.record(TOKENS, moved, logits=False)
        losses.append(other.cross_entropy(TARGETS)[0].mean())
    expected = (losses[0] - losses[1]) / 2e-6
    assert float((gradients.state.data * direction).sum()) == pytest.approx(expected, rel=1e-6)


def softmax_gradient(logits: np.ndarray, targets: list[int], weights: np.ndarray) -> np.ndarray:
    """Return the gradient of the weighted cross-entropy."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(targets)), targets] -= 1
    return p * weights[:, np.newaxis]


def assert_equal(one: Gradients, other: Gradients, tolerance: float = 0.0) -> None:
    assert one.parameters.keys() == other.parameters.keys()
    for name, array in one.parameters.items():
        if tolerance:
            assert close(array, other.parameters[name], tolerance), name
        else:
            assert array.tobytes() == other.parameters[name].tobytes(), name


def test_cross_entropy_is_backward_from_its_gradient(model: LanguageModel) -> None:
    weights = np.array([0, 1, 0.5, 0, 0, 2, 1, 1, 0])
    logits, state, tape = model.record(TOKENS)
    d_state = state.copy()
    losses, fused = tape.cross_entropy(TARGETS, weights, d_state)
    assert np.isnan(losses[weights == 0]).all()
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(9), TARGETS]
    np.testing.assert_allclose(losses[weights > 0], expected[weights > 0], rtol=1e-12)
    plain = tape.backward(softmax_gradient(logits, TARGETS, weights), d_state)
    assert_equal(fused, plain, 1e-12)
    assert close(fused.state.data, plain.state.data, 1e-12)
    assert close(fused.inputs, plain.inputs, 1e-12)


def test_l2_wrap_pulls_the_largest_logit_down(model: LanguageModel) -> None:
    logits, _, tape = model.record(TOKENS)
    _, fused = tape.cross_entropy(TARGETS, l2_wrap=1e-2)
    d = softmax_gradient(logits, TARGETS, np.full(9, 1 / 9))
    d[np.arange(9), logits.argmax(axis=1)] += 1e-2 * logits.max(axis=1) / 9
    assert_equal(fused, tape.backward(d), 1e-12)


def test_a_ragged_batch_is_the_sum_of_its_sequences(model: LanguageModel) -> None:
    sequences, targets = [TOKENS, [4], [60, 61, 62]], [TARGETS, [5], [61, 62, 63]]
    _, state = model.forward([1])
    states = [None, state, None]
    _, after, tape = model.record(sequences, states, logits=False)
    losses, batch = tape.cross_entropy(targets, [np.ones(len(own)) for own in targets])
    total: dict[str, np.ndarray] | None = None
    for i, (own, right) in enumerate(zip(sequences, targets, strict=True)):
        _, alone, single = model.record(own, states[i], logits=False)
        loss, gradients = single.cross_entropy(right, np.ones(len(right)), parameters=total)
        total = gradients.parameters
        np.testing.assert_allclose(losses[i], loss, rtol=1e-12)
        np.testing.assert_allclose(after[i].data, alone.data, rtol=1e-12)
        assert close(batch.inputs[i], gradients.inputs, 1e-12)
        assert close(batch.state[i].data, gradients.state.data, 1e-12)
    assert total is not None
    assert_equal(batch, Gradients(total, None, None), 1e-12)


def test_recomputation_and_threads_give_the_same_bits() -> None:
    config = Config(d_model=64, num_layers=2, vocab_size=300, d_ffn=200)
    model = LanguageModel(config, random_parameters(config, dtype=np.float32))
    rng = np.random.default_rng(3)
    sequences = [rng.integers(0, 300, n) for n in (150, 37, 1)]
    targets = [rng.integers(0, 300, n) for n in (150, 37, 1)]
    results = []
    for threads in (1, 2, 5):
        _, _, tape = model.record(sequences, logits=False, num_threads=threads)
        results.append(tape.cross_entropy(targets, num_threads=threads)[1])
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])
    # Segments of a few tokens add to the gradients in another order.
    _, _, small = model.record(sequences, logits=False, memory=0)
    assert len(small._recording._segments) > 3
    assert_equal(results[0], small.cross_entropy(targets)[1], 1e-4)


def test_a_tape_can_be_used_again(model: LanguageModel) -> None:
    _, _, tape = model.record([TOKENS, TOKENS[:2]], logits=False)
    _, first = tape.cross_entropy([TARGETS, TARGETS[:2]])
    _, again = tape.cross_entropy([TARGETS, TARGETS[:2]])
    assert_equal(first, again)


def test_segments_cover_every_token_once_and_bound_the_activations(model: LanguageModel) -> None:
    _, _, tape = model.record([[1] * n for n in (70, 3, 41)], logits=False, memory=1)
    recording = tape._recording
    covered = [0, 0, 0]
    for segment in recording._segments:
        assert segment.starts[-1] <= LEAST_TOKENS
        for i, tokens in zip(segment.active, np.diff(segment.starts), strict=True):
            assert covered[i] == segment.begins
            covered[i] += int(tokens)
    assert covered == [70, 3, 41]
    assert [segment.kept for segment in recording._segments].count(True) == 1


def test_frozen_parameters_do_not_change_the_others(model: LanguageModel) -> None:
    _, _, tape = model.record(TOKENS, logits=False)
    _, whole = tape.cross_entropy(TARGETS)
    _, _, tape = model.record(TOKENS, logits=False, trainable=["*time_mix*", "blocks.1.att.key.weight"])
    _, some = tape.cross_entropy(TARGETS)
    assert set(some.parameters) == {
        *(name for name in whole.parameters if "time_mix" in name),
        "blocks.1.att.key.weight",
    }
    for name, array in some.parameters.items():
        assert array.tobytes() == whole.parameters[name].tobytes()
    assert some.inputs.tobytes() == whole.inputs.tobytes()
    _, _, tape = model.record(TOKENS, logits=False, trainable=[])
    _, none = tape.cross_entropy(TARGETS)
    assert none.parameters == {}
    assert none.inputs.tobytes() == whole.inputs.tobytes()


def test_a_long_sequence_by_segments_is_truncated_at_will(model: LanguageModel) -> None:
    _, middle, first = model.record(TOKENS[:4], logits=False)
    _, _, second = model.record(TOKENS[4:], middle, logits=False)
    _, rest = second.cross_entropy(TARGETS[4:], np.ones(5))
    _, whole = first.cross_entropy(TARGETS[:4], np.ones(4), rest.state, parameters=rest.parameters)
    _, _, tape = model.record(TOKENS, logits=False)
    _, expected = tape.cross_entropy(TARGETS, np.ones(9))
    assert_equal(whole, expected, 1e-12)


@pytest.mark.parametrize("dtype", ["q8", "q4", "bf16", "f16", "bf12"])
def test_gradients_pass_through_stored_precisions(dtype: str, tmp_path: Any) -> None:
    config = Config(d_model=128, num_layers=2, vocab_size=256, d_ffn=192)
    stored = LanguageModel(config, random_parameters(config, dtype=np.float32))
    stored.save(tmp_path / "model.h5")
    small = load(tmp_path / "model.h5", dtype=dtype)
    wide = {name: floats(parameter) for name, parameter in small.parameters.items()}
    exact = LanguageModel(Config(**{**config.to_dict(), "compute_dtype": "f64"}), wide)
    rng = np.random.default_rng(4)
    tokens, targets = rng.integers(0, 256, 40), rng.integers(0, 256, 40)
    _, _, tape = small.record(tokens, logits=False)
    losses, gradients = tape.cross_entropy(targets)
    _, _, reference = exact.record(tokens, logits=False)
    expected_losses, expected = reference.cross_entropy(targets)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    quantized = {name for name, parameter in small.parameters.items() if parameter.dtype in ("q8", "q4", "bf12")}
    assert set(gradients.parameters) == set(small.parameters) - quantized
    for name, array in gradients.parameters.items():
        assert close(array, expected.parameters[name], 1e-4), name
    assert close(gradients.inputs, expected.inputs, 1e-4)


def floats(parameter: Parameter) -> np.ndarray:
    """Return the numbers that a stored parameter stands for, in float64."""
    if parameter.dtype in ("q8", "q4"):
        shape = parameter.shape[::-1] if parameter.transposed else parameter.shape
        numbers = unpack(parameter.array, parameter.dtype, shape).astype(np.float64)
        return numbers.T if parameter.transposed else numbers
    if parameter.dtype == "bf12":
        return widen(unpack_matrix(parameter.array, parameter.shape), "bf16", "f64")
    array = parameter.array.T if parameter.transposed else parameter.array
    return widen(np.ascontiguousarray(array), parameter.dtype, "f64")
