"""RWKV-5 in float64 NumPy, in all its minor versions; the channel mix is that of RWKV-4."""

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
    run,
    sigmoid,
)
from rwkv_cy.kernels.reference.rwkv4 import channel_mix, token_shift

__all__ = ["forward", "time_mix", "wkv"]


def wkv(r: Array, w: Array, u: Array, k: Array, v: Array, s: Array) -> tuple[Array, Array]:
    """WKV: y = S r + (sum r u k) v; S = S diag(w) + v k^T.

    Inputs have the shape (time, heads, size), u (heads, size); the state s (heads, size, size) is indexed
    [head, value, key], and w is the decay. Returns y and the new state.
    """
    y = np.empty_like(v)
    for t in range(len(r)):
        y[t] = (s @ r[t][:, :, np.newaxis])[:, :, 0] + (r[t] * u * k[t]).sum(axis=-1, keepdims=True) * v[t]
        s = s * w[t][:, np.newaxis] + v[t][:, :, np.newaxis] * k[t][:, np.newaxis]
    return y, s


def time_mix(x: Array, state: LayerState, weights: Weights, shared: Shared, eps: float) -> Array:
    """Time mix over normed x (time, d_model); the att_ fields of `state` are replaced."""
    own = {name.removeprefix("att."): array for name, array in weights.items() if name.startswith("att.")}
    names = ("receptance", "key", "value", *(("gate",) if "gate.weight" in own else ()))
    r, k, v, *gate = (
        matmul(own[f"{name}.weight"], token_shift(x, state["att_xx"], own[f"time_mix_{name[0]}"])) for name in names
    )
    by_head = (len(x), *state["att_kv"].shape[:2])
    # One number for each head or for each channel: w = exp(-exp(time_decay)), u = time_faaaa
    w = np.exp(-np.exp(own["time_decay"])).reshape(by_head[1], -1)
    u = own["time_faaaa"].reshape(by_head[1], -1)
    r, k, v = (part.reshape(by_head) for part in (r, k, v))
    y, state["att_kv"] = wkv(r, np.broadcast_to(w, by_head), u, k, v, state["att_kv"])
    state["att_xx"] = x[-1]
    y = group_norm(y, own["ln_x.weight"], own["ln_x.bias"], eps).reshape(len(x), -1)
    # out = output (GroupNorm(y) silu(g))
    return matmul(own["output.weight"], y * gate[0] * sigmoid(gate[0]) if gate else y)


def forward(
    parameters: Weights, config: Any, tokens: Sequence[int], state: list[LayerState] | None = None
) -> tuple[Array, list[LayerState]]:
    """Return the logits (time, vocab_size) after each token, and the state; a given state is updated in place."""
    if state is None:
        state = matrix_states(parameters, config, len(parameters["blocks.0.att.time_decay"]))
    mixes = (partial(time_mix, eps=config.group_norm_eps), channel_mix)
    return run(parameters, config, tokens, state, mixes), state
