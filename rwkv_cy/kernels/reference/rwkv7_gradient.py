"""Backward pass of the mixes of RWKV-7 in float64 NumPy; r_k has the shape (heads, head size)."""

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
    matrix_states,
    sigmoid,
    token_lerp,
)
from rwkv_cy.kernels.reference.gradients import (
    Gradients,
    group_norm_gradient,
    low_rank_gradient,
    matmul_gradient,
    run_gradient,
    token_lerp_gradients,
)
from rwkv_cy.kernels.reference.rwkv7 import channel_mix, time_mix, wkv

__all__ = ["channel_mix_gradient", "gradients", "time_mix_gradient", "wkv_gradient"]

#: -e^(-1/2), the factor of the decay's logarithm.
_DECAY = -np.exp(-0.5)


def wkv_gradient(
    r: Array, w: Array, k: Array, v: Array, kk: Array, a: Array, s: Array, d_y: Array, d_s: Array
) -> tuple[dict[str, Array], Array]:
    """Gradients of the arguments of :func:`rwkv_cy.kernels.reference.rwkv7.wkv` by name, and of the state s.

    d_y and d_s are those of its results.
    """
    states = [s]
    for t in range(len(r)):
        removed = states[t] @ kk[t][:, :, np.newaxis]
        after = states[t] * w[t][:, np.newaxis] - removed * (kk[t] * a[t])[:, np.newaxis]
        states.append(after + v[t][:, :, np.newaxis] * k[t][:, np.newaxis])
    d = {name: np.zeros_like(v) for name in ("r", "w", "k", "v", "kk", "a")}
    for t in reversed(range(len(r))):
        before, removed = states[t], (states[t] @ kk[t][:, :, np.newaxis])[:, :, 0]
        d["r"][t] = np.einsum("hij,hi->hj", states[t + 1], d_y[t])
        d_s = d_s + d_y[t][:, :, np.newaxis] * r[t][:, np.newaxis]
        d["w"][t] = (d_s * before).sum(axis=1)
        d["k"][t] = np.einsum("hij,hi->hj", d_s, v[t])
        d["v"][t] = np.einsum("hij,hj->hi", d_s, k[t])
        # S = S diag(w) - removed (kk a)^T + v k^T,  removed = S kk
        replaced = -np.einsum("hij,hi->hj", d_s, removed)
        d_removed = -np.einsum("hij,hj->hi", d_s, kk[t] * a[t])
        d["a"][t] = replaced * kk[t]
        d["kk"][t] = replaced * a[t] + np.einsum("hij,hi->hj", before, d_removed)
        d_s = d_s * w[t][:, np.newaxis] + d_removed[:, :, np.newaxis] * kk[t][:, np.newaxis]
    return d, d_s


def time_mix_gradient(
    x: Array,
    state: LayerState,
    weights: Weights,
    shared: Shared,
    d_y: Array,
    d_state: LayerState,
    d_shared: Shared,
    eps: float,
) -> tuple[Array, Gradients]:
    """Gradients of x and of the parameters, given d_y of the result.

    `state` is the one before the tokens and stays unchanged; the att_ fields of `d_state` become its gradient. `shared`
    holds v_first, and `d_shared` its gradient, which layer 0, the only one without v_first among its inputs, takes up.
    """
    own = {name.removeprefix("att."): array for name, array in weights.items() if name.startswith("att.")}
    vector = {name: own[name].reshape(-1) for name in ("w0", "a0", "k_k", "k_a", *(("v0",) if "v0" in own else ()))}
    heads, first = own["r_k"].shape, "v_first" not in shared
    count = len(x)
    by_head = (count, *heads)
    shifted = {name: token_lerp(x, state["att_xx"], own[f"x_{name}"]) for name in "rwkvag"}
    matrices = {"r": "receptance", "k": "key", "v": "value"}
    r, key, value = (shifted[name] @ own[f"{matrix}.weight"].T for name, matrix in matrices.items())
    hidden_w, hidden_g = np.tanh(shifted["w"] @ own["w1"]), sigmoid(shifted["g"] @ own["g1"])
    gate_w = sigmoid(vector["w0"] + hidden_w @ own["w2"])
    w, hidden_a = np.exp(_DECAY * gate_w), shifted["a"] @ own["a1"]
    a, g = sigmoid(vector["a0"] + hidden_a @ own["a2"]), hidden_g @ own["g2"]
    q = (key * vector["k_k"]).reshape(by_head)
    norm = np.sqrt((q**2).sum(axis=-1, keepdims=True))
    kk = q / np.maximum(norm, 1e-12)
    k, v = key * (1 + (a - 1) * vector["k_a"]), value
    if not first:
        hidden_v = shifted["v"] @ own["v1"]
        gate_v = sigmoid(vector["v0"] + hidden_v @ own["v2"])
        v = value + (shared["v_first"] - value) * gate_v
    r, w, k, v, a = (part.reshape(by_head) for part in (r, w, k, v, a))
    y, _ = wkv(r, w, k, v, kk, a, state["att_kv"])
    normed = group_norm(y, own["ln_x.weight"], own["ln_x.bias"], eps)
    bonus = (r * k * own["r_k"]).sum(axis=-1, keepdims=True)
    mixed = (normed + bonus * v).reshape(count, -1)

    gradients: Gradients = {}
    d_gated = matmul_gradient("output.weight", own, mixed * g, d_y, gradients)
    d_g, d_normed = d_gated * mixed, (d_gated * g).reshape(by_head)
    d_bonus = (d_normed * v).sum(axis=-1, keepdims=True)
    d_wkv, gradients["ln_x.weight"], gradients["ln_x.bias"] = group_norm_gradient(y, own["ln_x.weight"], eps, d_normed)
    d, d_state["att_kv"] = wkv_gradient(r, w, k, v, kk, a, state["att_kv"], d_wkv, d_state["att_kv"])
    d_v = (d["v"] + d_normed * bonus).reshape(count, -1)
    d_r = d["r"] + d_bonus * k * own["r_k"]
    d_k = (d["k"] + d_bonus * r * own["r_k"]).reshape(count, -1)
    gradients["r_k"] = (d_bonus * r * k).sum(axis=0)
    # k = key (1 + (a - 1) k_a);  kk = q / max(|q|, 1e-12),  q = key k_k
    a = a.reshape(count, -1)
    d_a = d["a"].reshape(count, -1) + d_k * key * vector["k_a"]
    gradients["k_a"] = (d_k * key * (a - 1)).sum(axis=0)
    along = np.where(norm > 1e-12, (d["kk"] * kk).sum(axis=-1, keepdims=True), 0)
    d_q = ((d["kk"] - kk * along) / np.maximum(norm, 1e-12)).reshape(count, -1)
    gradients["k_k"] = (d_q * key).sum(axis=0)
    d_key = d_k * (1 + (a - 1) * vector["k_a"]) + d_q * vector["k_k"]
    d_w = (d["w"] * w * _DECAY).reshape(count, -1) * gate_w * (1 - gate_w)
    d_a = d_a * a * (1 - a)
    gradients["w0"], gradients["a0"] = d_w.sum(axis=0), d_a.sum(axis=0)
    inputs = {}
    inputs["w"] = low_rank_gradient("w", own, shifted["w"], hidden_w, 1 - hidden_w**2, d_w, gradients)
    inputs["a"] = low_rank_gradient("a", own, shifted["a"], hidden_a, 1.0, d_a, gradients)
    inputs["g"] = low_rank_gradient("g", own, shifted["g"], hidden_g, hidden_g * (1 - hidden_g), d_g, gradients)
    if first:
        d_value = d_v + d_shared["v_first"]
    else:
        d_value = d_v * (1 - gate_v)
        d_shared["v_first"] = d_shared["v_first"] + d_v * gate_v
        d_mix = d_v * (shared["v_first"] - value) * gate_v * (1 - gate_v)
        gradients["v0"] = d_mix.sum(axis=0)
        inputs["v"] = low_rank_gradient("v", own, shifted["v"], hidden_v, 1.0, d_mix, gradients)
    for name, part in (("r", d_r), ("k", d_key), ("v", d_value)):
        through = matmul_gradient(f"{matrices[name]}.weight", own, shifted[name], part.reshape(count, -1), gradients)
        inputs[name] = inputs[name] + through if name in inputs else through
    mixes = {f"x_{name}": part for name, part in inputs.items()}
    d_x = token_lerp_gradients(mixes, own, x, state["att_xx"], d_state, "att_xx", gradients)
    shaped = {name: part.reshape(own[name].shape) for name, part in gradients.items()}
    return d_x, {f"att.{name}": part for name, part in shaped.items()}


def channel_mix_gradient(
    x: Array, state: LayerState, weights: Weights, shared: Shared, d_y: Array, d_state: LayerState, d_shared: Shared
) -> tuple[Array, Gradients]:
    """Gradients of x and of the parameters; arguments as for :func:`time_mix_gradient`."""
    own = {name.removeprefix("ffn."): array for name, array in weights.items() if name.startswith("ffn.")}
    shifted = token_lerp(x, state["ffn_xx"], own["x_k"])
    k = shifted @ own["key.weight"].T
    gradients: Gradients = {}
    d_k = matmul_gradient("value.weight", own, np.maximum(k, 0) ** 2, d_y, gradients) * 2 * np.maximum(k, 0)
    mixes = {"x_k": matmul_gradient("key.weight", own, shifted, d_k, gradients)}
    d_x = token_lerp_gradients(mixes, own, x, state["ffn_xx"], d_state, "ffn_xx", gradients)
    return d_x, {f"ffn.{name}": part.reshape(own[name].shape) for name, part in gradients.items()}


def gradients(
    parameters: Weights,
    config: Any,
    tokens: Sequence[int],
    state: list[LayerState] | None,
    d_logits: Array,
    d_state: list[LayerState],
) -> Gradients:
    """Return the gradients of the parameters, given those of the results of :func:`rwkv7.forward`.

    `d_state` becomes the gradient of `state`, of which None stands for the initial one.
    """
    if state is None:
        state = matrix_states(parameters, config, len(parameters["blocks.0.att.r_k"]))
    eps = config.group_norm_eps
    mixes = (partial(time_mix, eps=eps), channel_mix)
    gradients_of = (partial(time_mix_gradient, eps=eps), channel_mix_gradient)
    return run_gradient(parameters, config, tokens, state, mixes, gradients_of, d_logits, d_state)
