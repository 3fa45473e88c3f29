"""Channel mixes that look tokens up in tables, against the reference implementations, and against single tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from checkpoints import random_checkpoint
from rwkv7_shapes import rwkv7_config
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.dtypes import STORAGE_TYPES, to_storage, widen
from rwkv_cy.errors import KernelError
from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.kernels.reference import rwkv7a, rwkv8_rc00
from rwkv_cy.kernels.stack import Layer, Stack
from rwkv_cy.model.state import LayerState
from rwkv_cy.tensors.tensor import Parameter

REFERENCES = {"rwkv7a": rwkv7a.channel_mix, "rwkv8_rc00": rwkv8_rc00.channel_mix}
#: The table of each version, and the one-dimensional shape of its rows.
TABLES = {"rwkv7a": "ffn.s_emb.weight", "rwkv8_rc00": "ffn.enn.weight"}
VOCAB = 23


@pytest.fixture(params=REFERENCES)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Case:
    """The mixes of layers of one version, no parameter at its neutral value."""

    def __init__(self, version: str, real: str = "f32", layers: int = 2, rank: int = 6) -> None:
        self.rng = np.random.default_rng(7)
        config = rwkv7_config(48, layers, 16, (5, 7, 3, 11), vocab_size=VOCAB, d_ffn=37)
        ranks = {**config.ranks, "s": rank} if version == "rwkv7a" else config.ranks
        self.config = replace(config, architecture=version, compute_dtype=real, ranks=ranks)
        self.architecture = ARCHITECTURES[version]
        self.table = TABLES[version]
        self.offsets = self.architecture.state_offsets(self.config)
        self.dtype = np.dtype(np.float64 if real == "f64" else np.float32)
        self.weights = random_checkpoint(self.config, 7)

    def parameters(self, layer: int, **replaced: Parameter) -> dict[str, Parameter]:
        prefix, real = f"blocks.{layer}.", self.config.compute_dtype
        own = {n.removeprefix(prefix): Parameter(a, real) for n, a in self.weights.items() if n.startswith(prefix)}
        return own | replaced

    def mix(self, layer: int = 1, scale: float = 1.0, **replaced: Parameter) -> Any:
        return self.architecture.channel_mix(
            self.config, layer, self.parameters(layer, **replaced), scale, activations="f32"
        )

    def stack(self) -> Stack:
        layers = []
        for i in range(self.config.num_layers):
            own = self.parameters(i)
            time_mix = self.architecture.time_mix(self.config, i, own, 1.0, "f32")
            layers.append(Layer(self.config, i, own, time_mix, self.mix(i)))
        return Stack(layers)

    def inputs(self, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return normalized activations, ids and embeddings."""
        xs, embedded = (self.rng.standard_normal((tokens, 48)).astype(self.dtype) for _ in range(2))
        return xs, self.rng.integers(VOCAB, size=tokens), embedded

    def row(self) -> np.ndarray:
        return self.rng.standard_normal(self.offsets["end"]).astype(self.dtype)


@pytest.mark.parametrize("tokens", [1, 2, 9, 30])
def test_against_the_reference(isa: str, real: str, version: str, tokens: int) -> None:
    case = Case(version, real)
    xs, ids, embedded = case.inputs(tokens)
    state = LayerState(case.architecture.state_fields(case.config), case.row())
    wide = {name: widen(own.array, own.dtype, "f64") for name, own in case.parameters(1).items()}
    after = {name: array.astype(np.float64) for name, array in state.items()}
    shared = {"tokens": ids, "embedded": embedded.astype(np.float64)}
    expected = REFERENCES[version](xs.astype(np.float64), after, wide, shared)
    y = case.mix(scale=0.5).forward(xs, state.data, 2, None, ids, embedded)
    tolerance = 1e-12 if real == "f64" else 1e-5
    assert np.abs(y - 0.5 * expected).max() <= tolerance * np.abs(expected).max()
    for name, array in state.items():
        np.testing.assert_array_equal(array, after[name])


@pytest.mark.parametrize("rank", [1, 6, 32])
def test_a_sequence_is_its_tokens_one_by_one_to_the_last_bit(isa: str, real: str, version: str, rank: int) -> None:
    case = Case(version, real, rank=rank)
    xs, ids, embedded = case.inputs(35)
    mix, before = case.mix(), case.row()
    state = before.copy()
    single = [
        mix.forward(xs[t : t + 1], state, 1, None, ids[t : t + 1], embedded[t : t + 1].copy()) for t in range(len(xs))
    ]
    for threads in (1, 3):
        after = before.copy()
        y = mix.forward(xs, after, threads, None, ids, embedded)
        assert y.tobytes() == np.concatenate(single).tobytes()
        assert after.tobytes() == state.tobytes()


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
def test_a_table_of_any_float_type_stays_where_it_is(real: str, version: str, dtype: str) -> None:
    case = Case(version, real)
    xs, ids, embedded = case.inputs(5)
    whole = case.weights[f"blocks.1.{case.table}"]
    stored = to_storage(whole, case.config.compute_dtype, dtype)
    mix = case.mix(**{case.table: Parameter(stored, dtype)})
    rounded = Parameter(widen(stored, dtype, "f64").astype(case.dtype), case.config.compute_dtype)
    state = case.row()
    y = mix.forward(xs, state.copy(), 1, None, ids, embedded)
    expected = case.mix(**{case.table: rounded}).forward(xs, state.copy(), 1, None, ids, embedded)
    assert y.tobytes() == expected.tobytes()
    # Not copied: what is written to it is what a later call reads.
    stored[...] = 0
    assert mix.forward(xs, state.copy(), 1, None, ids, embedded).tobytes() != y.tobytes()


def test_tokens_that_are_not_rows_of_the_table(version: str) -> None:
    case = Case(version)
    xs, ids, embedded = case.inputs(3)
    mix, state = case.mix(), case.row()
    before = state.copy()
    for wrong in (-1, VOCAB, 2**62):
        with pytest.raises(KernelError, match=f"ChannelMix: expected a row from 0 to {VOCAB - 1}, got {wrong}"):
            mix.forward(xs, state, 1, None, np.array([0, 1, wrong]), embedded)
    with pytest.raises(KernelError, match=r"ChannelMix: expected the ids of the 3 tokens as int64.*got NoneType"):
        mix.forward(xs, state)
    with pytest.raises(KernelError, match=r"expected the ids of the 3 tokens as int64.*got int64 of shape \(2,\)"):
        mix.forward(xs, state, 1, None, ids[:2], embedded)
    with pytest.raises(KernelError, match=r"expected the ids of the 3 tokens as int64.*got int32 of shape \(3,\)"):
        mix.forward(xs, state, 1, None, ids.astype(np.int32), embedded)
    assert state.tobytes() == before.tobytes()


def test_embeddings_that_do_not_fit() -> None:
    case = Case("rwkv7a")
    xs, ids, embedded = case.inputs(3)
    mix, state = case.mix(), case.row()
    message = r"ChannelMix: expected contiguous embeddings \(3, 48\) of float32, got "
    for wrong, found in (
        (None, "NoneType of shape None"),
        (embedded[:2], r"float32 of shape \(2, 48\)"),
        (embedded.astype(np.float64), r"float64 of shape \(3, 48\)"),
        (np.asfortranarray(embedded), r"float32 of shape \(3, 48\)"),
    ):
        with pytest.raises(KernelError, match=message + found):
            mix.forward(xs, state, 1, None, ids, wrong)


def test_tables_that_do_not_fit() -> None:
    case = Case("rwkv7a")
    with pytest.raises(KernelError, match=r"expected rows of 6 x 6 numbers in ffn\.s_emb, .* squared, got 35"):
        case.mix(**{case.table: Parameter(np.zeros((VOCAB, 35), np.float32), "f32")})
    case = Case("rwkv8_rc00")
    with pytest.raises(KernelError, match=r"ChannelMix: expected rows of 48 in ffn\.enn\.weight, got 47"):
        case.mix(**{case.table: Parameter(np.zeros((VOCAB, 47), np.float32), "f32")})


def test_a_stack_checks_the_tokens_first(version: str) -> None:
    case = Case(version)
    stack = case.stack()
    assert stack.vocab_size == VOCAB
    xs, ids, _ = case.inputs(4)
    state = np.stack([case.row(), case.row()])
    before = state.copy()
    bounds = np.array([0, 4], np.intp)
    with pytest.raises(KernelError, match=r"Stack: expected the ids of the 4 tokens as int64, .* got NoneType"):
        stack.forward(xs, [state], [state], bounds, Workspace(), 1)
    ids[3] = VOCAB
    with pytest.raises(KernelError, match=f"Stack: expected a row from 0 to {VOCAB - 1}, got {VOCAB}"):
        stack.forward(xs, [state], [state], bounds, Workspace(), 1, False, ids)
    assert state.tobytes() == before.tobytes()


def test_embeddings_come_from_layer_0() -> None:
    case = Case("rwkv7a")
    own = case.parameters(1)
    layer = Layer(case.config, 1, own, case.architecture.time_mix(case.config, 1, own, 1.0, "f32"), case.mix(1))
    with pytest.raises(KernelError, match="Stack: expected layer 0 first, whose input is the embeddings"):
        Stack([layer])
