"""The names of transformers' RWKV (``RwkvForCausalLM``), versions 4 to 6; those of version 7 are the original ones.

Source: transformers, convert_rwkv_checkpoint_to_hf.py.
"""

from __future__ import annotations

from rwkv_cy.formats.layouts.layout import Layout, Rule, any_name
from rwkv_cy.formats.layouts.original import (
    ORIGINAL,
    has_delta_rule,
    has_dynamic_mixes,
    has_head_decay,
    has_vector_state,
)
from rwkv_cy.formats.layouts.steps import vector
from rwkv_cy.records import replace

__all__ = ["HUGGINGFACE", "HUGGINGFACE_4", "HUGGINGFACE_7", "HUGGINGFACE_7_RENAMED", "HUGGINGFACE_WRITTEN"]

_LONG = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}
_NAMES = any_name("blocks.{i}.attention.{rest}", "blocks.{i}.feed_forward.{rest}", "blocks.{i}.pre_ln.{rest}")

_RENAMED = (
    Rule("emb.weight", "embeddings.weight"),
    Rule("blocks.{i}.ln0.{rest}", "blocks.{i}.pre_ln.{rest}"),
    *(
        Rule(f"blocks.{{i}}.{ours}.time_mix_{short}", f"blocks.{{i}}.{theirs}.time_mix_{long}", (vector(3, 3),))
        for ours, theirs in (("att", "attention"), ("ffn", "feed_forward"))
        for short, long in _LONG.items()
    ),
    Rule("blocks.{i}.att.{rest}", "blocks.{i}.attention.{rest}"),
    Rule("blocks.{i}.ffn.{rest}", "blocks.{i}.feed_forward.{rest}"),
)

HUGGINGFACE_4 = Layout(
    "transformers, RWKV-4",
    lambda shapes: _NAMES(shapes) and has_vector_state(shapes),
    (
        *(
            Rule(f"blocks.{{i}}.att.{name}", f"blocks.{{i}}.attention.{name}", (vector(1, 1),))
            for name in ("time_decay", "time_first")
        ),
        *_RENAMED,
    ),
    prefix="rwkv.",
    holds=has_vector_state,
)

#: The code that comes with the checkpoints RWKV/rwkv-5-world and RWKV/v6-Finch; RWKV-6 keeps the names of its mixes.
HUGGINGFACE = Layout(
    "transformers, RWKV-5 and RWKV-6",
    _NAMES,
    _RENAMED,
    prefix="rwkv.",
    holds=lambda shapes: has_head_decay(shapes) or has_dynamic_mixes(shapes),
)

#: What that code runs: RWKV-6, and RWKV-5 with a decay for each channel.
HUGGINGFACE_WRITTEN = replace(
    HUGGINGFACE,
    name="transformers, RWKV-5.2 and RWKV-6",
    holds=lambda shapes: (
        has_dynamic_mixes(shapes) or (has_head_decay(shapes) and len(shapes.get("blocks.0.att.time_decay", ())) == 2)
    ),
)

#: The official checkpoints of RWKV-7 for transformers: original names behind a prefix.
HUGGINGFACE_7 = Layout("transformers, RWKV-7", ORIGINAL.matches, ORIGINAL.rules, prefix="rwkv7.", holds=has_delta_rule)

#: Earlier ones of github.com/rwkv-rs/transformers-rwkv, which rename the embedding alone.
HUGGINGFACE_7_RENAMED = Layout(
    "transformers-rwkv, RWKV-7, embedding renamed",
    lambda shapes: ORIGINAL.matches(shapes) and "embeddings.weight" in shapes,
    (Rule("emb.weight", "embeddings.weight"), *ORIGINAL.rules),
    prefix="rwkv7.",
    holds=has_delta_rule,
)
