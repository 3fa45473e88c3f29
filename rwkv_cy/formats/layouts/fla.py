"""RWKV-6 and RWKV-7 in the names of flash-linear-attention, and RWKV-7 in those of a fork of transformers.

Sources: github.com/fla-org/flash-linear-attention, utils/convert_from_rwkv6.py and convert_from_rwkv7.py;
github.com/rwkv-rs/transformers-rwkv, temp/rwkv_pth2st.py. They leave out the factors v0, v1 and v2 of layer 0 of
RWKV-7, which are not used.
"""

from __future__ import annotations

from rwkv_cy.formats.layouts.layout import Layout, Rule, any_name
from rwkv_cy.formats.layouts.original import has_delta_rule, has_dynamic_mixes
from rwkv_cy.formats.layouts.steps import TRANSPOSED, Step, merged, regrouped, vector

__all__ = ["FLA", "FLA_6", "FLA_FUSED", "LINEAR_ATTENTION"]

#: Factors of layer 0 that have no use.
_UNUSED = tuple(f"blocks.0.att.v{n}" for n in "012")
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

_FLA_FRAME = (
    Rule("emb.weight", "embeddings.weight"),
    _module("ln0", "pre_norm"),
    _module("ln1", "attn_norm"),
    _module("ln2", "ffn_norm"),
    *_OUTER,
)

_FLA_RULES = (
    *_FLA_FRAME,
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
)
_FLA_NAMES = any_name("layers.{i}.attn.w_lora.lora.{rest}")

FLA = Layout(
    "flash-linear-attention, RWKV-7",
    _FLA_NAMES,
    _FLA_RULES,
    "model.",
    "lm_head.weight",
    holds=has_delta_rule,
    omitted=_UNUSED,
)

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
    holds=has_delta_rule,
    omitted=_UNUSED,
)

#: The order of the five mixes in the original's factors and in theirs.
_MIXES_6, _FLA_MIXES_6 = "wkvrg", "rwkvg"


def _linear(ours: str, theirs: str) -> Rule:
    return Rule(f"blocks.{{i}}.{ours}.weight", f"layers.{{i}}.{theirs}.linear.weight")


def _one(ours: str, theirs: str, *steps: Step) -> Rule:
    return Rule(f"blocks.{{i}}.{ours}", f"layers.{{i}}.{theirs}", steps)


FLA_6 = Layout(
    "flash-linear-attention, RWKV-6",
    any_name("layers.{i}.attn.x_proj.0.mu"),
    (
        *_FLA_FRAME,
        _one("att.time_maa_x", "attn.x_proj.0.mu", vector(3, 1)),
        # (C, 5 D) there and back, and (5, D, C): the mixes stand side by side in all of them.
        _one("att.time_maa_w1", "attn.x_proj.0.linear.weight", TRANSPOSED, regrouped(_MIXES_6, _FLA_MIXES_6)),
        _one("att.time_maa_w2", "attn.x_proj.2.weight", regrouped(_MIXES_6, _FLA_MIXES_6), merged(5), TRANSPOSED),
        Rule(
            tuple(f"blocks.{{i}}.att.time_maa_{name}" for name in _FLA_MIXES_6),
            "layers.{i}.attn.x_bias",
            (vector(3, 2),),
        ),
        _one("att.time_decay_w1", "attn.w_proj.linear.lora.0.weight", TRANSPOSED),
        _one("att.time_decay_w2", "attn.w_proj.linear.lora.2.weight", TRANSPOSED),
        _one("att.time_decay", "attn.w_proj.linear.lora.2.bias", vector(3, 1)),
        _one("att.time_faaaa", "attn.bonus"),
        *(_linear(f"att.{ours}", f"attn.{ours[0]}_proj") for ours in ("receptance", "key", "value", "gate")),
        _module("att.output", "attn.o_proj"),
        _module("att.ln_x", "attn.g_norm"),
        _module("att", "attn"),
        *(_linear(f"ffn.{ours}", f"ffn.{ours}") for ours in ("key", "receptance")),
        *(_one(f"ffn.time_maa_{ours[0]}", f"ffn.{ours}.mu", vector(3, 1)) for ours in ("key", "receptance")),
        _module("ffn", "ffn"),
    ),
    "model.",
    "lm_head.weight",
    holds=has_dynamic_mixes,
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
    holds=has_delta_rule,
    omitted=_UNUSED,
)
