"""RWKV-8 rc00 in float64 NumPy: RWKV-7 with a vector for each token that scales the channel mix."""

from __future__ import annotations

from functools import partial

from rwkv_cy.kernels.reference import rwkv7
from rwkv_cy.kernels.reference.common import Array, LayerState, Shared, Weights

__all__ = ["channel_mix", "forward"]


def channel_mix(x: Array, state: LayerState, weights: Weights, shared: Shared) -> Array:
    """Channel mix over normed x (time, d_model); ffn_xx of `state` is replaced."""
    result: Array = rwkv7.channel_mix(x, state, weights, shared) * weights["ffn.enn.weight"][shared["tokens"]]
    return result


forward = partial(rwkv7.forward, channel_mix=channel_mix)
