"""RWKV-7 in float64 NumPy; r_k has the shape (heads, head size)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rwkv_cy.kernels.reference.common import (
    Array,
    LayerState,
    Mix,
    Shared,
    Weights,
    group_norm,
    matmul,
    matrix_states,
    run,
    sigmoid,
    token_lerp,
)

__all__ = ["channel_mix", "forward", "low_rank", "time_mix", "wkv"]


def low_rank(x: Array, first: Array, second: Array) -> Array:
    """(x * first) * second, both factors (in, out)."""
    result: Array = (x @ first) @ second
    return result


def wkv(r: Array, w: Array, k: Array, v: Array, kk: Array, a: Array, s: Array) -> tuple[Array, Array]:
    """S = S diag(w) - (S kk) (kk a)^T + v k^T; y = S r.

    Inputs have shape (time, heads, size), the state s (heads, size, size) is indexed [head, value, key], and w is the
    decay in (0, 1). Returns y and the new state.
    """
    y = np.empty_like(v)
    for t in range(len(r)):
        removed = s @ kk[t][:, :, np.newaxis]
        s = s * w[t][:, np.newaxis] - removed * (kk[t] * a[t])[:, np.newaxis]
        s = s + v[t][:, :, np.newaxis] * k[t][:, np.newaxis]
        y[t] = (s @ r[t][:, :, np.newaxis])[:, :, 0]
    return y, s


def time_mix(x: Array, state: LayerState, weights: Weights, shared: Shared, eps: float) -> Array:
    """Time mix over normed x (time, d_model); the att_ fields of `state` are replaced.

    Layer 0, for which `shared` has no v_first yet, stores its values there.
    """
    own = {name.removeprefix("att."): array for name, array in weights.items() if name.startswith("att.")}
    by_head = (len(x), *own["r_k"].shape)
    xr, xw, xk, xv, xa, xg = (token_lerp(x, state["att_xx"], own[f"x_{name}"]) for name in "rwkvag")
    r, k, v = (
        matmul(own[f"{name}.weight"], shifted) for name, shifted in (("receptance", xr), ("key", xk), ("value", xv))
    )
    w0, a0, k_k, k_a = (own[name].reshape(-1) for name in ("w0", "a0", "k_k", "k_a"))
    # w = exp(-e^(-1/2) sigmoid(w0 + tanh(xw w1) w2))
    w = np.exp(-np.exp(-0.5) * sigmoid(w0 + np.tanh(xw @ own["w1"]) @ own["w2"]))
    a = sigmoid(a0 + low_rank(xa, own["a1"], own["a2"]))
    g = sigmoid(xg @ own["g1"]) @ own["g2"]
    # kk = L2(k k_k) by head, before k = k (1 + (a - 1) k_a)
    kk = (k * k_k).reshape(by_head)
    kk = kk / np.maximum(np.sqrt((kk**2).sum(axis=-1, keepdims=True)), 1e-12)
    k = k * (1 + (a - 1) * k_a)
    if "v_first" in shared:
        v = v + (shared["v_first"] - v) * sigmoid(own["v0"].reshape(-1) + low_rank(xv, own["v1"], own["v2"]))
    else:
        shared["v_first"] = v
    r, w, k, v, a = (part.reshape(by_head) for part in (r, w, k, v, a))
    y, state["att_kv"] = wkv(r, w, k, v, kk, a, state["att_kv"])
    state["att_xx"] = x[-1]
    # out = output ((GroupNorm(y) + (sum r k r_k) v) g)
    y = group_norm(y, own["ln_x.weight"], own["ln_x.bias"], eps) + (r * k * own["r_k"]).sum(axis=-1, keepdims=True) * v
    return matmul(own["output.weight"], y.reshape(len(x), -1) * g)


def channel_mix(x: Array, state: LayerState, weights: Weights, shared: Shared) -> Array:
    """Channel mix over normed x (time, d_model); ffn_xx of `state` is replaced."""
    k = matmul(weights["ffn.key.weight"], token_lerp(x, state["ffn_xx"], weights["ffn.x_k"]))
    state["ffn_xx"] = x[-1]
    return matmul(weights["ffn.value.weight"], np.maximum(k, 0) ** 2)


def forward(
    parameters: Weights,
    config: Any,
    tokens: Sequence[int],
    state: list[LayerState] | None = None,
    *,
    channel_mix: Mix = channel_mix,
) -> tuple[Array, list[LayerState]]:
    """Return the logits (time, vocab_size) after each token, and the state; a given state is updated in place.

    `channel_mix` is that of the version, since others have the same time mix.
    """
    if state is None:
        state = matrix_states(parameters, config, len(parameters["blocks.0.att.r_k"]))
    mixes = (partial(time_mix, eps=config.group_norm_eps), channel_mix)
    return run(parameters, config, tokens, state, mixes), state
