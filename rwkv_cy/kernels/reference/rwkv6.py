"""RWKV-6 in float64 NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rwkv_cy.kernels.reference.common import (
    Array,
    LayerState,
    Shared,
    Weights,
    group_norm,
    matmul,
    matrix_states,
    previous,
    run,
    sigmoid,
    token_lerp,
)
from rwkv_cy.kernels.reference.rwkv5 import wkv

__all__ = ["channel_mix", "decay", "forward", "time_mix"]


def decay(logits: Array) -> Array:
    """exp(-exp(x)): 0 where the inner exponential overflows."""
    with np.errstate(over="ignore", under="ignore"):
        result: Array = np.exp(-np.exp(logits))
    return result


def time_mix(x: Array, state: LayerState, weights: Weights, shared: Shared, eps: float) -> Array:
    """Time mix over normed x (time, d_model); the att_ fields of `state` are replaced."""
    own = {name.removeprefix("att."): array for name, array in weights.items() if name.startswith("att.")}
    hidden = np.tanh(token_lerp(x, state["att_xx"], own["time_maa_x"]) @ own["time_maa_w1"])
    change = previous(x, state["att_xx"]) - x
    # x_m = x + (prev - x) (maa_m + hidden_m w2_m)
    xw, xk, xv, xr, xg = (
        x + change * (own[f"time_maa_{name}"].reshape(-1) + part @ factor)
        for name, part, factor in zip("wkvrg", np.split(hidden, 5, axis=-1), own["time_maa_w2"], strict=True)
    )
    by_head = (len(x), *own["time_faaaa"].shape)
    w = decay(own["time_decay"].reshape(-1) + np.tanh(xw @ own["time_decay_w1"]) @ own["time_decay_w2"])
    k, v, r, g = (
        matmul(own[f"{name}.weight"], shifted)
        for name, shifted in (("key", xk), ("value", xv), ("receptance", xr), ("gate", xg))
    )
    r, w, k, v = (part.reshape(by_head) for part in (r, w, k, v))
    y, state["att_kv"] = wkv(r, w, own["time_faaaa"], k, v, state["att_kv"])
    state["att_xx"] = x[-1]
    # out = output (GroupNorm(y) silu(g))
    y = group_norm(y, own["ln_x.weight"], own["ln_x.bias"], eps).reshape(len(x), -1)
    return matmul(own["output.weight"], y * g * sigmoid(g))


def channel_mix(x: Array, state: LayerState, weights: Weights, shared: Shared) -> Array:
    """Channel mix over normed x (time, d_model); ffn_xx of `state` is replaced."""
    r, k = (
        matmul(weights[f"ffn.{name}.weight"], token_lerp(x, state["ffn_xx"], weights[f"ffn.time_maa_{name[0]}"]))
        for name in ("receptance", "key")
    )
    state["ffn_xx"] = x[-1]
    return sigmoid(r) * matmul(weights["ffn.value.weight"], np.maximum(k, 0) ** 2)


def forward(
    parameters: Weights, config: Any, tokens: Sequence[int], state: list[LayerState] | None = None
) -> tuple[Array, list[LayerState]]:
    """Return the logits (time, vocab_size) after each token, and the state; a given state is updated in place."""
    if state is None:
        state = matrix_states(parameters, config, len(parameters["blocks.0.att.time_faaaa"]))
    mixes = (partial(time_mix, eps=config.group_norm_eps), channel_mix)
    return run(parameters, config, tokens, state, mixes), state
