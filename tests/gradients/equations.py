"""RWKV-5 to 7 in torch, as the authors' equations have them, for its automatic differentiation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as f

from rwkv_cy.config import Config

Weights = Mapping[str, Tensor]
#: A layer's state by field.
Fields = dict[str, Tensor]


def shift(x: Tensor, last: Tensor) -> Tensor:
    """Return the token before each token."""
    return torch.cat([last[None], x[:-1]])


def by_heads(x: Tensor, config: Config) -> Tensor:
    return x.view(len(x), -1, config.head_size)


def group_norm(y: Tensor, p: Weights, config: Config) -> Tensor:
    heads = config.d_att // config.head_size
    return f.group_norm(y.reshape(len(y), -1), heads, p["att.ln_x.weight"], p["att.ln_x.bias"], config.group_norm_eps)


def plain_wkv(r: Tensor, w: Tensor, u: Tensor, k: Tensor, v: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """WKV of RWKV-5 and 6; the state is [head, value, key]."""
    ys = []
    for t in range(len(r)):
        update = v[t].unsqueeze(2) * k[t].unsqueeze(1)
        ys.append(((s + u.unsqueeze(1) * update) @ r[t].unsqueeze(2)).squeeze(2))
        s = s * w[t].unsqueeze(1) + update
    return torch.stack(ys), s


def time_mix_5(x: Tensor, state: Fields, p: Weights, config: Config, shared: dict[str, Tensor]) -> Tensor:
    before = shift(x, state["att_xx"])
    state["att_xx"] = x[-1]

    def product(name: str) -> Tensor:
        mix = p[f"att.time_mix_{name[0]}"].view(-1)
        return f.linear(x * mix + before * (1 - mix), p[f"att.{name}.weight"])

    r, k, v = (by_heads(product(name), config) for name in ("receptance", "key", "value"))
    heads = r.shape[1]
    w = torch.exp(-torch.exp(p["att.time_decay"].view(heads, -1))).expand(heads, config.head_size)
    u = p["att.time_faaaa"].view(heads, -1).expand(heads, config.head_size)
    y, state["att_kv"] = plain_wkv(r, w.expand_as(r), u, k, v, state["att_kv"])
    y = group_norm(y, p, config)
    if "att.gate.weight" in p:
        y = y * f.silu(product("gate"))
    return f.linear(y, p["att.output.weight"])


def time_mix_6(x: Tensor, state: Fields, p: Weights, config: Config, shared: dict[str, Tensor]) -> Tensor:
    change = shift(x, state["att_xx"]) - x
    state["att_xx"] = x[-1]
    hidden = torch.tanh((x + change * p["att.time_maa_x"].view(-1)) @ p["att.time_maa_w1"]).view(len(x), 5, -1)
    more = torch.einsum("tmd,mdc->mtc", hidden, p["att.time_maa_w2"])
    xw, xk, xv, xr, xg = (
        x + change * (p[f"att.time_maa_{name}"].view(-1) + part) for name, part in zip("wkvrg", more, strict=True)
    )
    logits = p["att.time_decay"].view(-1) + torch.tanh(xw @ p["att.time_decay_w1"]) @ p["att.time_decay_w2"]
    r = by_heads(f.linear(xr, p["att.receptance.weight"]), config)
    k = by_heads(f.linear(xk, p["att.key.weight"]), config)
    v = by_heads(f.linear(xv, p["att.value.weight"]), config)
    w = by_heads(torch.exp(-torch.exp(logits)), config)
    y, state["att_kv"] = plain_wkv(r, w, p["att.time_faaaa"], k, v, state["att_kv"])
    return f.linear(group_norm(y, p, config) * f.silu(f.linear(xg, p["att.gate.weight"])), p["att.output.weight"])


def time_mix_7(x: Tensor, state: Fields, p: Weights, config: Config, shared: dict[str, Tensor]) -> Tensor:
    change = shift(x, state["att_xx"]) - x
    state["att_xx"] = x[-1]
    p = {name.removeprefix("att."): array for name, array in p.items()}
    xr, xw, xk, xv, xa, xg = (x + change * p[f"x_{name}"].view(-1) for name in "rwkvag")
    w0, a0, k_k, k_a = (p[name].view(-1) for name in ("w0", "a0", "k_k", "k_a"))
    w = torch.exp(-0.6065306597126334 * torch.sigmoid(w0 + torch.tanh(xw @ p["w1"]) @ p["w2"]))
    a = torch.sigmoid(a0 + (xa @ p["a1"]) @ p["a2"])
    g = torch.sigmoid(xg @ p["g1"]) @ p["g2"]
    r, k, v = (f.linear(part, p[f"{name}.weight"]) for part, name in ((xr, "receptance"), (xk, "key"), (xv, "value")))
    kk = f.normalize(by_heads(k * k_k, config), dim=-1, eps=1e-12)
    k = k * (1 + (a - 1) * k_a)
    if "v_first" in shared:
        v = v + (shared["v_first"] - v) * torch.sigmoid(p["v0"].view(-1) + (xv @ p["v1"]) @ p["v2"])
    else:
        shared["v_first"] = v
    r, w, k, v, a = (by_heads(part, config) for part in (r, w, k, v, a))
    s, ys = state["att_kv"], []
    for t in range(len(x)):
        removed = s @ -kk[t].unsqueeze(2)
        s = s * w[t].unsqueeze(1) + removed * (kk[t] * a[t]).unsqueeze(1) + v[t].unsqueeze(2) * k[t].unsqueeze(1)
        ys.append((s @ r[t].unsqueeze(2)).squeeze(2))
    state["att_kv"] = s
    normed = f.group_norm(
        torch.stack(ys).reshape(len(x), -1), r.shape[1], p["ln_x.weight"], p["ln_x.bias"], config.group_norm_eps
    )
    bonus = ((r * k * p["r_k"]).sum(dim=-1, keepdim=True) * v).reshape(len(x), -1)
    return f.linear((normed + bonus) * g, p["output.weight"])


def channel_mix(x: Tensor, state: Fields, p: Weights) -> Tensor:
    """Channel mix of any of these versions; they differ in the token shift and in the receptance."""
    before = shift(x, state["ffn_xx"])
    state["ffn_xx"] = x[-1]

    def shifted(name: str) -> Tensor:
        if f"ffn.time_mix_{name}" in p:
            mix = p[f"ffn.time_mix_{name}"].view(-1)
            return x * mix + before * (1 - mix)
        mix = p[f"ffn.x_{name}"] if f"ffn.x_{name}" in p else p[f"ffn.time_maa_{name}"]
        return x + (before - x) * mix.view(-1)

    y = f.linear(torch.relu(f.linear(shifted("k"), p["ffn.key.weight"])) ** 2, p["ffn.value.weight"])
    if "ffn.receptance.weight" in p:
        y = torch.sigmoid(f.linear(shifted("r"), p["ffn.receptance.weight"])) * y
    return y


TIME_MIXES = {"rwkv5": time_mix_5, "rwkv6": time_mix_6, "rwkv7": time_mix_7}


def logits(p: Weights, config: Config, tokens: Any, states: list[Fields]) -> Tensor:
    """Return the logits after each token; the fields of the states are replaced."""

    def norm(x: Tensor, name: str) -> Tensor:
        return f.layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], config.layer_norm_eps)

    time_mix = TIME_MIXES[config.architecture.partition(".")[0]]
    x, shared = f.embedding(torch.as_tensor(tokens), p["emb.weight"]), {}
    x = norm(x, "blocks.0.ln0")
    for i, state in enumerate(states):
        prefix = f"blocks.{i}."
        own = {name.removeprefix(prefix): array for name, array in p.items() if name.startswith(prefix)}
        scale = 0.5 ** (i // config.rescale_layer) if config.rescale_layer else 1.0
        x = x + scale * time_mix(norm(x, f"{prefix}ln1"), state, own, config, shared)
        x = x + scale * channel_mix(norm(x, f"{prefix}ln2"), state, own)
        if config.rescale_layer and (i + 1) % config.rescale_layer == 0:
            x = x / 2
    return f.linear(norm(x, "ln_out"), p["head.weight"])
