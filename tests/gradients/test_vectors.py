"""Gradients of upstream, computed by running it, which Model must reproduce."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.test_vectors import NAMES, Vectors
from rwkv_cy.model.gradients import Gradients

#: Relative to the largest value of the tensor.
TOLERANCE = {"f32": 2e-5, "f64": 1e-11}


@pytest.fixture(scope="module", params=["f32", "f64"])
def vectors(shared: Path, request: pytest.FixtureRequest) -> Vectors:
    return Vectors(shared / "vectors" / "tiny.npz", str(request.param))


@pytest.fixture(scope="module", params=["f32", "f64"])
def wide(shared: Path, request: pytest.FixtureRequest) -> Vectors:
    return Vectors(shared / "vectors" / "noscale.npz", str(request.param))


@pytest.fixture(scope="module", params=["f32", "f64"])
def extreme(shared: Path, request: pytest.FixtureRequest) -> Vectors:
    return Vectors(shared / "vectors" / "extreme.npz", str(request.param))


def names_of(vectors: Vectors) -> dict[str, str]:
    """Return upstream's name of every gradient that it computes, by ours."""
    names = {}
    for layer in range(vectors.config.num_layers):
        for ours, theirs in NAMES.items():
            stored = f"Layers.{layer}.{theirs}"
            if ours.startswith("ln"):
                names[f"blocks.{layer}.{ours}.weight"] = f"{stored}.W"
                names[f"blocks.{layer}.{ours}.bias"] = f"{stored}.B"
            else:
                names[f"blocks.{layer}.{ours}"] = stored
    return names


def assert_gradients(vectors: Vectors, gradients: Gradients, kind: str) -> None:
    """Compare with upstream's gradients; its time_decay is already -exp(time_decay)."""
    missing = {str(name) for name in vectors.expected(f"{kind}_nil")}
    parameters = vectors.parameters()
    checked = 0
    for ours, theirs in names_of(vectors).items():
        if theirs in missing:
            assert ours not in gradients.parameters
            continue
        actual = gradients.parameters[ours].astype(np.float64)
        if ours.endswith("time_decay"):
            actual = actual / -np.exp(parameters[ours].array)
        assert_close(vectors, actual, f"{kind}_{theirs}")
        checked += 1
    assert checked == len(gradients.parameters) > 0


def assert_close(vectors: Vectors, actual: np.ndarray, name: str) -> None:
    expected = vectors.expected(name)
    error = np.abs(actual.reshape(expected.shape) - expected).max()
    assert error <= TOLERANCE[vectors.prefix] * np.abs(expected).max(), name


def check(vectors: Vectors, **options: int) -> None:
    xs = vectors["inputs"]
    ys, _, tape = vectors.model.record(xs, **options)
    vectors.assert_close(ys, "out_seq")
    gradients = tape.backward(np.ones_like(xs))
    assert_gradients(vectors, gradients, "grad")
    assert_close(vectors, gradients.inputs, "grad_input")
    ys, _, tape = vectors.model.record(xs, vectors.state(vectors["state0"]), **options)
    vectors.assert_close(ys, "out_from_state0")
    gradients = tape.backward(vectors["gy"], vectors.state(vectors["gs"]))
    assert_gradients(vectors, gradients, "wgrad")
    assert_close(vectors, gradients.inputs, "wgrad_input")
    assert_close(vectors, gradients.state.data, "wgrad_state0")


def check_single(vectors: Vectors) -> None:
    """Compare with upstream's pass of one token at a time, whose gradients go through the states between them."""
    tapes, state = [], None
    for x in vectors["inputs"]:
        _, state, tape = vectors.model.record(x[np.newaxis], state)
        tapes.append(tape)
    rows, after, total = [], None, None
    for tape in reversed(tapes):
        gradients = tape.backward(np.ones((1, vectors.config.d_model)), after, parameters=total)
        rows.append(gradients.inputs)
        after, total = gradients.state, gradients.parameters
    assert_gradients(vectors, gradients, "gradsingle")
    assert_close(vectors, np.concatenate(rows[::-1]), "gradsingle_input")


def test_tiny(vectors: Vectors) -> None:
    check(vectors)
    check_single(vectors)


def test_a_width_that_is_not_a_multiple_of_eight(wide: Vectors) -> None:
    check(wide)
    check_single(wide)


def test_extreme_keys(extreme: Vectors) -> None:
    check(extreme)
    check_single(extreme)


def test_nothing_kept(vectors: Vectors) -> None:
    check(vectors, memory=0)
