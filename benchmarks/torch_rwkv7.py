"""RWKV-7 in torch, by the authors' equations, for training: logits of a batch of sequences of equal lengths."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as f

from rwkv_cy import Config

__all__ = ["loss"]

Weights = Mapping[str, Tensor]


def _wkv(r: Tensor, w: Tensor, k: Tensor, v: Tensor, kk: Tensor, a: Tensor) -> Tensor:
    """Return S r of every token; arguments have the shape (batch, time, heads, size)."""
    s = torch.zeros(*r.shape[:1], *r.shape[2:], r.shape[-1])
    ys = []
    for t in range(r.shape[1]):
        removed = s @ -kk[:, t].unsqueeze(-1)
        s = (
            s * w[:, t].unsqueeze(-2)
            + removed @ (kk[:, t] * a[:, t]).unsqueeze(-2)
            + v[:, t].unsqueeze(-1) @ k[:, t].unsqueeze(-2)
        )
        ys.append((s @ r[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(ys, dim=1)


def _change(x: Tensor) -> Tensor:
    """Return the token before each token, zeros before the first, minus the token."""
    return f.pad(x, (0, 0, 1, -1)) - x


def _time_mix(x: Tensor, p: Weights, config: Config, v_first: Tensor | None) -> tuple[Tensor, Tensor]:
    change = _change(x)
    xr, xw, xk, xv, xa, xg = (x + change * p[f"x_{name}"] for name in "rwkvag")
    by_head = (*x.shape[:2], -1, config.head_size)
    w = torch.exp(-0.6065306597126334 * torch.sigmoid(p["w0"] + torch.tanh(xw @ p["w1"]) @ p["w2"]))
    a = torch.sigmoid(p["a0"] + (xa @ p["a1"]) @ p["a2"])
    g = torch.sigmoid(xg @ p["g1"]) @ p["g2"]
    r, k, v = (f.linear(part, p[f"{name}.weight"]) for part, name in ((xr, "receptance"), (xk, "key"), (xv, "value")))
    kk = f.normalize((k * p["k_k"]).view(by_head), dim=-1)
    k = k * (1 + (a - 1) * p["k_a"])
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * torch.sigmoid(p["v0"] + (xv @ p["v1"]) @ p["v2"])
    r, w, k, v, a = (part.view(by_head) for part in (r, w, k, v, a))
    y = _wkv(r, w, k, v, kk, a)
    normed = f.group_norm(y.flatten(0, 1).flatten(1), r.shape[2], p["ln_x.weight"], p["ln_x.bias"], 64e-5).view_as(x)
    bonus = ((r * k * p["r_k"]).sum(dim=-1, keepdim=True) * v).view_as(x)
    return f.linear((normed + bonus) * g, p["output.weight"]), v_first


def loss(p: Weights, config: Config, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the targets (batch, time), each of which follows the token at its place."""

    def norm(x: Tensor, name: str) -> Tensor:
        return f.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], config.layer_norm_eps)

    x, v_first = norm(f.embedding(tokens, p["emb.weight"]), "blocks.0.ln0"), None
    for i in range(config.num_layers):
        prefix = f"blocks.{i}.att."
        own = {name.removeprefix(prefix): array for name, array in p.items() if name.startswith(prefix)}
        mixed, v_first = _time_mix(norm(x, f"blocks.{i}.ln1"), own, config, v_first)
        x = x + mixed
        normed = norm(x, f"blocks.{i}.ln2")
        hidden = f.linear(normed + _change(normed) * p[f"blocks.{i}.ffn.x_k"], p[f"blocks.{i}.ffn.key.weight"])
        x = x + f.linear(torch.relu(hidden) ** 2, p[f"blocks.{i}.ffn.value.weight"])
    logits = f.linear(norm(x, "ln_out"), p["head.weight"])
    return f.cross_entropy(logits.flatten(0, 1), targets.flatten())
