"""The float64 NumPy twins of the kernels: each as short as its equation, none in use outside tests and tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["channel_mix4", "layer4", "layer_norm", "matmul", "sigmoid", "time_mix4", "token_shift", "wkv4"]

Array = npt.NDArray[np.float64]
Weights = Mapping[str, npt.NDArray[Any]]


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


def token_shift(x: Array, last: Array, mix: Array) -> Array:
    """X * mix + prev * (1 - mix), prev being the token before; `last` before the first."""
    prev = np.concatenate([last[np.newaxis], x[:-1]])
    return x * mix + prev * (1 - mix)


def wkv4(w: Array, u: Array, k: Array, v: Array, aa: Array, bb: Array, pp: Array) -> tuple[Array, Array, Array, Array]:
    """WKV of RWKV-4 over k, v (time, channels), w = -exp(time_decay): the outputs, and aa, bb, pp after them."""
    out = np.empty_like(k)
    for t in range(len(k)):
        p = np.maximum(pp, u + k[t])
        e1, e2 = np.exp(pp - p), np.exp(u + k[t] - p)
        out[t] = (e1 * aa + e2 * v[t]) / (e1 * bb + e2)
        p = np.maximum(pp + w, k[t])
        e1, e2 = np.exp(pp + w - p), np.exp(k[t] - p)
        aa, bb, pp = e1 * aa + e2 * v[t], e1 * bb + e2, p
    return out, aa, bb, pp


def time_mix4(x: Array, state: dict[str, Array], weights: Weights) -> Array:
    """Time mix of RWKV-4 over normed x (time, d_model); the att_ fields of `state` are replaced."""
    r, k, v = (
        matmul(
            weights[f"att.{name}.weight"], token_shift(x, state["att_xx"], weights[f"att.time_mix_{mix}"].reshape(-1))
        )
        for name, mix in (("receptance", "r"), ("key", "k"), ("value", "v"))
    )
    decay, first = -np.exp(weights["att.time_decay"]), weights["att.time_first"]
    wkv, state["att_aa"], state["att_bb"], state["att_pp"] = wkv4(
        decay, first, k, v, state["att_aa"], state["att_bb"], state["att_pp"]
    )
    state["att_xx"] = x[-1]
    return matmul(weights["att.output.weight"], sigmoid(r) * wkv)


def channel_mix4(x: Array, state: dict[str, Array], weights: Weights) -> Array:
    """Channel mix of RWKV-4 over normed x (time, d_model); ffn_xx of `state` is replaced."""
    r, k = (
        matmul(
            weights[f"ffn.{name}.weight"], token_shift(x, state["ffn_xx"], weights[f"ffn.time_mix_{mix}"].reshape(-1))
        )
        for name, mix in (("receptance", "r"), ("key", "k"))
    )
    state["ffn_xx"] = x[-1]
    return sigmoid(r) * matmul(weights["ffn.value.weight"], np.maximum(k, 0) ** 2)


def layer4(x: Array, state: dict[str, Array], weights: Weights, eps: float, *, output_scale: float = 1.0) -> Array:
    """One layer of RWKV-4 over x (time, d_model), ln0 included where `weights` has it; `state` is replaced."""
    if "ln0.weight" in weights:
        x = layer_norm(x, weights["ln0.weight"], weights["ln0.bias"], eps)
    normed = layer_norm(x, weights["ln1.weight"], weights["ln1.bias"], eps)
    x = x + output_scale * time_mix4(normed, state, weights)
    normed = layer_norm(x, weights["ln2.weight"], weights["ln2.bias"], eps)
    return x + output_scale * channel_mix4(normed, state, weights)
