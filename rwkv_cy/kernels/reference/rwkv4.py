"""RWKV-4 in float64 NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rwkv_cy.kernels.reference.common import Array, LayerState, Shared, Weights, matmul, previous, run, sigmoid

__all__ = ["MIXES", "channel_mix", "forward", "initial_state", "time_mix", "wkv"]


def initial_state(parameters: Weights, config: Any) -> list[LayerState]:
    """Return the layers' states before the first token."""
    a, c = len(parameters["blocks.0.att.time_decay"]), parameters["emb.weight"].shape[1]
    return [
        {
            "ffn_xx": np.zeros(c),
            "att_xx": np.zeros(c),
            "att_aa": np.zeros(a),
            "att_bb": np.zeros(a),
            "att_pp": np.full(a, -1e30),
        }
        for _ in range(config.num_layers)
    ]


def token_shift(x: Array, last: Array, mix: Array) -> Array:
    """Return x * mix + prev * (1 - mix), where prev is the previous token."""
    mix = mix.reshape(-1)
    return x * mix + previous(x, last) * (1 - mix)


def wkv(w: Array, u: Array, k: Array, v: Array, aa: Array, bb: Array, pp: Array) -> tuple[Array, Array, Array, Array]:
    """WKV over k, v (time, channels), w = -exp(time_decay): the outputs, and aa, bb, pp after them."""
    out = np.empty_like(k)
    for t in range(len(k)):
        p = np.maximum(pp, u + k[t])
        e1, e2 = np.exp(pp - p), np.exp(u + k[t] - p)
        out[t] = (e1 * aa + e2 * v[t]) / (e1 * bb + e2)
        p = np.maximum(pp + w, k[t])
        e1, e2 = np.exp(pp + w - p), np.exp(k[t] - p)
        aa, bb, pp = e1 * aa + e2 * v[t], e1 * bb + e2, p
    return out, aa, bb, pp


def time_mix(x: Array, state: LayerState, weights: Weights, shared: Shared) -> Array:
    """Time mix over normed x (time, d_model); the att_ fields of `state` are replaced."""
    r, k, v = (
        matmul(weights[f"att.{name}.weight"], token_shift(x, state["att_xx"], weights[f"att.time_mix_{name[0]}"]))
        for name in ("receptance", "key", "value")
    )
    decay, first = -np.exp(weights["att.time_decay"]), weights["att.time_first"]
    out, state["att_aa"], state["att_bb"], state["att_pp"] = wkv(
        decay, first, k, v, state["att_aa"], state["att_bb"], state["att_pp"]
    )
    state["att_xx"] = x[-1]
    return matmul(weights["att.output.weight"], sigmoid(r) * out)


def channel_mix(x: Array, state: LayerState, weights: Weights, shared: Shared) -> Array:
    """Channel mix over normed x (time, d_model); ffn_xx of `state` is replaced."""
    r, k = (
        matmul(weights[f"ffn.{name}.weight"], token_shift(x, state["ffn_xx"], weights[f"ffn.time_mix_{name[0]}"]))
        for name in ("receptance", "key")
    )
    state["ffn_xx"] = x[-1]
    return sigmoid(r) * matmul(weights["ffn.value.weight"], np.maximum(k, 0) ** 2)


MIXES = (time_mix, channel_mix)


def forward(
    parameters: Weights, config: Any, tokens: Sequence[int], state: list[LayerState] | None = None
) -> tuple[Array, list[LayerState]]:
    """Return the logits (time, vocab_size) after each token, and the state; a given state is updated in place."""
    state = initial_state(parameters, config) if state is None else state
    return run(parameters, config, tokens, state, MIXES), state
