"""Model and its layers: guarantees of forward about results and states."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rwkv_cy.config import Config
from rwkv_cy.dtypes import widen
from rwkv_cy.errors import ConfigError, SpecError, StateError
from rwkv_cy.model.encoder import CHUNK_TOKENS, Model
from rwkv_cy.model.layer import Layer
from rwkv_cy.model.state import State
from rwkv_cy.tensors.tensor import Parameter


def random_parameters(config: Config, seed: int = 0, dtype: str = "f32") -> dict[str, np.ndarray]:
    """Random weights everywhere, the ones that start at zero too."""
    from rwkv_cy.architectures import architecture_of

    rng = np.random.default_rng(seed)
    real = np.float64 if dtype == "f64" else np.float32
    return {
        f"blocks.{i}.{spec.name}": (rng.standard_normal(spec.shape) * 0.4).astype(real)
        for i in range(config.num_layers)
        for spec in architecture_of(config).layer_parameters(config, i)
    }


@pytest.fixture(params=["f32", "f64"])
def model(request: pytest.FixtureRequest) -> Model:
    config = Config(d_model=24, num_layers=3, compute_dtype=request.param, rescale_layer=2)
    return Model(config, random_parameters(config, dtype=request.param), "f" * 32)


def inputs(model: Model, time: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((time, model.config.d_model))


def test_sequence_is_repeated_single_to_the_last_bit(model: Model) -> None:
    xs = inputs(model, 2 * CHUNK_TOKENS + 5)
    state, singles = None, []
    for x in xs:
        y, state = model.forward_single(x, state)
        singles.append(y)
    for threads in (1, 2, 3):
        ys, after = model.forward_sequence(xs, num_threads=threads)
        assert ys.tobytes() == np.array(singles).tobytes()
        assert after == state


def test_a_given_state_changes_only_in_place(model: Model) -> None:
    xs = inputs(model, 4)
    _, state = model.forward_sequence(xs[:2])
    before = state.copy()
    _, after = model.forward_single(xs[2], state)
    assert state == before
    assert after is not state
    _, same = model.forward_single(xs[2], state, in_place=True)
    assert same is state
    assert state == after


def test_in_place_without_a_state_gives_a_new_one(model: Model) -> None:
    _, state = model.forward_single(inputs(model, 1)[0], in_place=True)
    assert isinstance(state, State)


def test_an_empty_sequence_is_an_empty_result(model: Model) -> None:
    ys, state = model.forward_sequence(np.empty((0, 24)))
    assert ys.shape == (0, 24)
    assert state == model.initial_state()


def test_the_input_is_not_changed(model: Model) -> None:
    xs = inputs(model, 3).astype(np.float64 if model.config.compute_dtype == "f64" else np.float32)
    before = xs.copy()
    ys, _ = model.forward_sequence(xs)
    assert (xs == before).all()
    assert not np.may_share_memory(xs, ys)


def test_an_interrupted_call_in_place_leaves_an_invalid_state(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    xs = inputs(model, 2 * CHUNK_TOKENS)
    _, state = model.forward_sequence(xs[:3])
    before = state.copy()
    run, calls = model.run, []

    def interrupted(*args: object, **named: object) -> None:
        calls.append(args)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        run(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.forward_sequence(xs, state)
    assert state == before
    with pytest.raises(KeyboardInterrupt):
        model.forward_sequence(xs, state, in_place=True)
    for use in (lambda: model.forward_sequence(xs, state), state.copy, lambda: state.save("never")):
        with pytest.raises(
            StateError, match="expected a complete state, got one that a failed call had partly updated"
        ):
            use()


def test_wrong_inputs(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"forward_single: expected numbers of shape \(d_model,\) with d_model 24"):
        model.forward_single(np.zeros(23))
    with pytest.raises(ConfigError, match=r"forward_sequence: expected numbers of shape \(time, d_model\)"):
        model.forward_sequence(np.zeros(24))
    with pytest.raises(ConfigError, match="got <U1"):
        model.forward_single(np.array(["a"] * 24))
    with pytest.raises(ConfigError, match="num_threads: expected a number of threads"):
        model.forward_single(np.zeros(24), num_threads=0)


def test_states_of_other_models_are_refused(model: Model) -> None:
    x = np.zeros(24)
    fewer = Config(d_model=24, num_layers=2, compute_dtype=model.config.compute_dtype)
    with pytest.raises(StateError, match="expected one of a rwkv4 model with 3 layers of width 24"):
        model.forward_single(x, Model(fewer, random_parameters(fewer)).initial_state())
    other = Model(model.config, random_parameters(model.config, 1), "0" * 32)
    with pytest.raises(StateError, match=r"expected one of this model \(fingerprint ffffffffffff\).*\(000000000000\)"):
        model.forward_single(x, other.initial_state())
    with pytest.raises(StateError, match="expected a State or None, got dict"):
        model.forward_single(x, {})  # type: ignore[arg-type]
    unknown = other.initial_state()
    unknown.fingerprint = ""
    model.forward_single(x, unknown)


def test_unknown_architecture() -> None:
    with pytest.raises(ConfigError, match=r"Config\.architecture: expected one of rwkv4, .*, got 'rwkv9'"):
        Model.new(Config(d_model=8, num_layers=1, architecture="rwkv9"), 0)


def test_missing_and_misshaped_parameters_are_all_named() -> None:
    config = Config(d_model=8, num_layers=2)
    parameters = random_parameters(config)
    del parameters["blocks.1.ln1.weight"]
    del parameters["blocks.1.att.key.weight"]
    parameters["blocks.1.ffn.key.weight"] = np.zeros((31, 8), np.float32)
    with pytest.raises(SpecError) as caught:
        Model(config, parameters)
    message = str(caught.value)
    for part in (
        "layer 1: missing ln1.weight (8,)",
        "missing att.key.weight (8, 8)",
        "ffn.key.weight: expected (32, 8), got (31, 8)",
    ):
        assert part in message
    parameters["blocks.0.ln0.weight"] = np.zeros(8, np.int32)
    with pytest.raises(SpecError, match="expected an array of float64, float32 or float16, got int32"):
        Model(config, parameters)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bit_weights_equal_the_same_weights_widened(dtype: str) -> None:
    from rwkv_cy.dtypes import to_storage

    config = Config(d_model=24, num_layers=2)
    narrow = {name: to_storage(array, "f32", dtype) for name, array in random_parameters(config).items()}
    xs = np.random.default_rng(3).standard_normal((9, 24))
    ys, state = Model(config, {name: Parameter(array, dtype) for name, array in narrow.items()}).forward_sequence(xs)
    wide = Model(config, {name: widen(array, dtype) for name, array in narrow.items()})
    expected, expected_state = wide.forward_sequence(xs)
    assert ys.tobytes() == expected.tobytes()
    assert state == expected_state


def test_dividing_weights_and_halving_activations_cancel() -> None:
    plain = Config(d_model=24, num_layers=5, layer_norm_eps=1e-12)
    halved = Config(d_model=24, num_layers=5, rescale_layer=2, layer_norm_eps=1e-12)
    parameters = random_parameters(plain)
    xs = np.random.default_rng(3).standard_normal((6, 24))
    ys, _ = Model(plain, parameters).forward_sequence(xs)
    rescaled, _ = Model(halved, parameters, divide_weights=True).forward_sequence(xs)
    np.testing.assert_allclose(rescaled * 4, ys, rtol=2e-5, atol=2e-5)


def test_one_layer_of_new_values_runs() -> None:
    model = Model.new(Config(d_model=16, num_layers=1), rng=0)
    ys, _ = model.forward_sequence(np.random.default_rng(0).standard_normal((3, 16)))
    assert np.isfinite(ys).all()
    again, _ = Model.new(Config(d_model=16, num_layers=1), np.random.default_rng(0)).forward_sequence(
        np.random.default_rng(0).standard_normal((3, 16))
    )
    assert (ys == again).all()


def test_threads_share_one_model(model: Model) -> None:
    xs = inputs(model, 60)
    expected, _ = model.forward_sequence(xs)
    results: dict[int, np.ndarray] = {}

    def work(worker: int) -> None:
        state, rows = None, []
        for x in xs:
            y, state = model.forward_single(x, state, num_threads=1 + worker % 2)
            rows.append(y)
        results[worker] = np.array(rows)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(result.tobytes() == expected.tobytes() for result in results.values())


def test_the_mixes_of_a_layer_on_their_own(model: Model) -> None:
    layer = model.layers[1]
    xs = inputs(model, 5)
    state = model.initial_state()
    own = state.layers[1]
    y = layer.time_mix.forward(xs, own)
    z = layer.channel_mix.forward(xs, own)
    assert y.shape == z.shape == (5, 24)
    assert own.att_xx.tolist() == own.ffn_xx.tolist()
    assert (own.att_pp > -1e30).all()
    assert (state.data[0] == model.initial_state().data[0]).all()
    other = State.initial("rwkv4", state.fields, 1, "f32" if model.config.compute_dtype == "f64" else "f64").layers[0]
    with pytest.raises(StateError, match="LayerState: expected 120 numbers of float.., got 120 of float.."):
        layer.channel_mix.forward(xs, other)
    with pytest.raises(ConfigError, match="TimeMix.forward: expected numbers of shape"):
        layer.time_mix.forward(xs[0], own)


def test_a_layer_by_its_own_parameters() -> None:
    config = Config(d_model=8, num_layers=2)
    parameters = {
        name[len("blocks.1.") :]: array for name, array in random_parameters(config).items() if "blocks.1." in name
    }
    layer = Layer(config, 1, parameters)
    assert layer.index == 1
