"""RWKV-7a in float64 NumPy: RWKV-7 with DeepEmbed, a matrix for each token in the channel mix."""

from __future__ import annotations

from functools import partial

import numpy as np

from rwkv_cy.kernels.reference import rwkv7
from rwkv_cy.kernels.reference.common import Array, LayerState, Shared, Weights, matmul, token_lerp

__all__ = ["channel_mix", "forward"]


def channel_mix(x: Array, state: LayerState, weights: Weights, shared: Shared) -> Array:
    """Channel mix over normed x (time, d_model); ffn_xx of `state` is replaced."""
    own = {name.removeprefix("ffn."): array for name, array in weights.items() if name.startswith("ffn.")}
    k = matmul(own["key.weight"], token_lerp(x, state["ffn_xx"], own["x_k"]))
    # E = s_emb[token] + s_emb_x LN0(emb[token]), a matrix [in, out] for each token
    rank = own["s1"].shape[1]
    table = own["s_emb.weight"][shared["tokens"]] + matmul(own["s_emb_x.weight"], shared["embedded"])
    mapped = (x @ own["s1"])[:, np.newaxis] @ table.reshape(-1, rank, rank)
    state["ffn_xx"] = x[-1]
    return matmul(own["value.weight"], np.maximum(k, 0) ** 2 * (mapped[:, 0] @ own["s2"] + own["s0"]))


forward = partial(rwkv7.forward, channel_mix=channel_mix)
