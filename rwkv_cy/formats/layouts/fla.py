"""RWKV-7 in the names of flash-linear-attention, and of a fork of transformers whose names are close to them.

Sources: github.com/fla-org/flash-linear-attention, utils/convert_from_rwkv7.py; github.com/rwkv-rs/transformers-rwkv,
temp/rwkv_pth2st.py. Both leave out the factors v0, v1 and v2 of layer 0, which are not used.
"""

from __future__ import annotations

from rwkv_cy.formats.layouts.layout import Layout, Rule, any_name
from rwkv_cy.formats.layouts.steps import TRANSPOSED, vector

__all__ = ["FLA", "FLA_FUSED", "LINEAR_ATTENTION"]

_PROJECTIONS = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
_MIXES = "rwkvag"


def _module(ours: str, theirs: str) -> Rule:
    return Rule(f"blocks.{{i}}.{ours}.{{rest}}", f"layers.{{i}}.{theirs}.{{rest}}")


def _vectors(ours: str, theirs: str, names: str, axes: int) -> tuple[Rule, ...]:
    """Return the rules of vectors that have three axes here, and so many there."""
    return tuple(
        Rule(f"blocks.{{i}}.{ours}.{name}", f"layers.{{i}}.{theirs}.{name}", (vector(3, axes),))
        for name in names.split()
    )


def _projections(attention: str) -> tuple[Rule, ...]:
    return tuple(_module(f"att.{ours}", f"{attention}.{theirs}") for ours, theirs in _PROJECTIONS.items())


_OUTER = (Rule("ln_out.{rest}", "norm.{rest}"), Rule("head.weight", "lm_head.weight"))

_FLA_RULES = (
    Rule("emb.weight", "embeddings.weight"),
    _module("ln0", "pre_norm"),
    _module("ln1", "attn_norm"),
    _module("ln2", "ffn_norm"),
    *_projections("attn"),
    # X1 and X2 are nn.Linear there, (out, in); X0 is the bias of the second.
    *(
        Rule(f"blocks.{{i}}.att.{m}{ours}", f"layers.{{i}}.attn.{m}_lora.lora.{theirs}", (step,))
        for m in "wavg"
        for ours, theirs, step in (
            (0, "2.bias", vector(3, 1)),
            (1, "0.weight", TRANSPOSED),
            (2, "2.weight", TRANSPOSED),
        )
    ),
    *_vectors("att", "attn", "k_k k_a", 1),
    *_vectors("att", "attn", " ".join(f"x_{name}" for name in _MIXES), 3),
    _module("att", "attn"),
    *_vectors("ffn", "ffn", "x_k", 1),
    _module("ffn", "ffn"),
    *_OUTER,
)
_FLA_NAMES = any_name("layers.{i}.attn.w_lora.lora.{rest}")

FLA = Layout("flash-linear-attention, RWKV-7", _FLA_NAMES, _FLA_RULES, "model.", "lm_head.weight")

#: Older files, with all mixes of a layer in one tensor [6, C].
FLA_FUSED = Layout(
    "flash-linear-attention, RWKV-7, fused mixes",
    any_name("layers.{i}.attn.x_x"),
    (
        Rule(tuple(f"blocks.{{i}}.att.x_{name}" for name in _MIXES), "layers.{i}.attn.x_x", (vector(3, 2),)),
        *_FLA_RULES,
    ),
    "model.",
    "lm_head.weight",
)

#: The fork, which keeps the original factors and their orientation.
LINEAR_ATTENTION = Layout(
    "transformers-rwkv, RWKV-7",
    any_name("layers.{i}.linear_attn.r_k"),
    (
        Rule("emb.weight", "embed_tokens.weight"),
        Rule("blocks.0.ln0.{rest}", "embedding_norm.{rest}"),
        _module("ln1", "input_layernorm"),
        _module("ln2", "post_attention_layernorm"),
        *_projections("linear_attn"),
        *_vectors("att", "linear_attn", "w0 a0 v0 k_k k_a " + " ".join(f"x_{name}" for name in _MIXES), 1),
        _module("att", "linear_attn"),
        *_vectors("ffn", "mlp", "x_k", 1),
        _module("ffn", "mlp"),
        *_OUTER,
    ),
    "model.",
    "lm_head.weight",
)
