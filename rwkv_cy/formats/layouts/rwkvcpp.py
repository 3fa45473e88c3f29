"""The tensors of rwkv.cpp's files (``.bin``): RWKV-4 with its decay computed, RWKV-7 with fused mixes.

Source: github.com/RWKV/rwkv.cpp, python/convert_pytorch_to_ggml.py.
"""

from __future__ import annotations

from rwkv_cy.formats.layouts.layout import Layout, Rule, any_name
from rwkv_cy.formats.layouts.original import has_delta_rule, has_vector_state, vectors
from rwkv_cy.formats.layouts.steps import NEGATED_EXPONENTIAL, TRANSPOSED, vector

__all__ = ["RWKVCPP_4", "RWKVCPP_7"]

_DECAY = "blocks.{i}.att.time_decay"

RWKVCPP_4 = Layout(
    "rwkv.cpp, RWKV-4",
    has_vector_state,
    (
        Rule(_DECAY, _DECAY, (vector(1, 1), NEGATED_EXPONENTIAL)),
        *vectors("blocks.{i}.att.{name}", "time_first", 1, 1),
        *vectors("blocks.{i}.att.time_mix_{name}", "k v r", 3, 1),
        *vectors("blocks.{i}.ffn.time_mix_{name}", "k r", 3, 1),
    ),
    holds=has_vector_state,
)

RWKVCPP_7 = Layout(
    "rwkv.cpp, RWKV-7",
    any_name("blocks.{i}.att.x_rwkvag"),
    (
        Rule(tuple(f"blocks.{{i}}.att.x_{name}" for name in "rwkvag"), "blocks.{i}.att.x_rwkvag", (vector(3, 3),)),
        *(Rule(name, name, (TRANSPOSED,)) for name in (f"blocks.{{i}}.att.{m}{n}" for m in "wavg" for n in "12")),
        *vectors("blocks.{i}.att.{name}", "w0 a0 v0 k_k k_a", 3, 3),
        *vectors("blocks.{i}.ffn.{name}", "x_k", 3, 3),
    ),
    holds=has_delta_rule,
)
