"""Shared parts of the reference implementations: products, normalization, the residual block, the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "LayerState",
    "Mix",
    "Shared",
    "Weights",
    "block",
    "group_norm",
    "layer_norm",
    "matmul",
    "matrix_states",
    "previous",
    "run",
    "sigmoid",
    "token_lerp",
]

Array = npt.NDArray[np.float64]
Weights = Mapping[str, npt.NDArray[Any]]
#: A layer's state: arrays by field name, which the mixes replace.
LayerState = dict[str, Array]
#: What layers share for the same tokens: activations of earlier layers, the ids as ``"tokens"``, and their embeddings
#: after ln0 as ``"embedded"``.
Shared = dict[str, npt.NDArray[Any]]


class Mix(Protocol):
    """A time mix or channel mix over normed x (time, d_model)."""

    def __call__(self, x: Array, state: LayerState, weights: Weights, shared: Shared) -> Array:
        """Return the update of the residual stream, and replace arrays of `state`."""
        ...


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    result: Array = np.exp(-np.logaddexp(0, -x))
    return result


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """(x - E[x]) / sqrt(Var[x] + eps) * weight + bias, over the last axis."""
    centered = x - x.mean(axis=-1, keepdims=True)
    result: Array = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + eps) * weight + bias
    return result


def matmul(weight: Array, x: Array) -> Array:
    """Tokens (time, in) times a matrix (out, in): (time, out)."""
    result: Array = x @ weight.T
    return result


def previous(x: Array, last: Array) -> Array:
    """Return the row before each row of x; `last` before the first."""
    return np.concatenate([last[np.newaxis], x[:-1]])


def token_lerp(x: Array, last: Array, mix: Array) -> Array:
    """Return x + (prev - x) * mix, where prev is the previous token."""
    return x + (previous(x, last) - x) * mix.reshape(-1)


def group_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """Normalize each head of x (time, heads, size) separately; weight and bias are per channel."""
    heads = x.shape[1:]
    return layer_norm(x, weight.reshape(heads), bias.reshape(heads), eps)


def matrix_states(parameters: Weights, config: Any, heads: int) -> list[LayerState]:
    """Return states of matrices before the first token; att_kv [head, value, key] is time_state if there is one."""
    size, c = len(parameters["blocks.0.att.receptance.weight"]) // heads, parameters["emb.weight"].shape[1]
    empty = np.zeros((heads, size, size))
    return [
        {
            "ffn_xx": np.zeros(c),
            "att_xx": np.zeros(c),
            "att_kv": np.array(parameters.get(f"blocks.{i}.att.time_state", empty), np.float64),
        }
        for i in range(config.num_layers)
    ]


def block(
    x: Array,
    state: LayerState,
    weights: Weights,
    shared: Shared,
    mixes: tuple[Mix, Mix],
    eps: float,
    output_scale: float = 1.0,
) -> Array:
    """One layer, after ln0 if it has one: x += TimeMix(ln1(x)); x += ChannelMix(ln2(x)).

    The arrays of `state` are replaced.
    """
    if "ln0.weight" in weights:
        x = layer_norm(x, weights["ln0.weight"], weights["ln0.bias"], eps)
    shared.setdefault("embedded", x)  # the input of the first layer
    for norm, mix in zip(("ln1", "ln2"), mixes, strict=True):
        normed = layer_norm(x, weights[f"{norm}.weight"], weights[f"{norm}.bias"], eps)
        x = x + output_scale * mix(normed, state, weights, shared)
    return x


def run(
    parameters: Weights, config: Any, tokens: Sequence[int], state: Sequence[LayerState], mixes: tuple[Mix, Mix]
) -> Array:
    """Return the logits (time, vocab_size) after each token; the layers' states are replaced."""
    eps, halve_after = config.layer_norm_eps, config.rescale_layer
    wide = {name: np.asarray(array, np.float64) for name, array in parameters.items()}
    ids = np.asarray(tokens, np.int64)
    x, shared = wide["emb.weight"][ids], Shared(tokens=ids)
    for i, own in enumerate(state):
        prefix = f"blocks.{i}."
        weights = {name.removeprefix(prefix): array for name, array in wide.items() if name.startswith(prefix)}
        scale = 0.5 ** (i // halve_after) if halve_after else 1.0
        x = block(x, own, weights, shared, mixes, eps, scale)
        if halve_after and (i + 1) % halve_after == 0:
            x = x / 2
    return matmul(wide["head.weight"], layer_norm(x, wide["ln_out.weight"], wide["ln_out.bias"], eps))
