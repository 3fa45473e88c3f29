"""The tensors of llama.cpp's GGUF files, RWKV-6 and RWKV-7, and the dimensions that such files state.

Source: github.com/ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py and constants.py, conversion/rwkv.py,
src/models/rwkv6.cpp and rwkv7.cpp. Both versions need all of the dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rwkv_cy.formats.layouts.layout import Layout, Rule, any_name
from rwkv_cy.formats.layouts.original import has_delta_rule, has_dynamic_mixes
from rwkv_cy.formats.layouts.steps import TRANSPOSED, Step, divided, heads, vector
from rwkv_cy.records import dataclass

__all__ = ["GGUF_ARCHITECTURES", "GGUF_RELATIVES", "GgufArchitecture", "gguf_layout"]


@dataclass(frozen=True)
class GgufArchitecture:
    """One version of RWKV in GGUF files.

    Attributes
    ----------
    layout : callable
        Gives the layout for a head size, and a number of layers after which the residual stream is halved (0: never).
    dimensions : mapping of str to (str, int)
        By key of the metadata, without the architecture in front: a tensor, and the axis that has that length.
        ``{last}`` stands for the number of the last layer.
    """

    layout: Callable[[int, int], Layout]
    dimensions: Mapping[str, tuple[str, int]]


def gguf_layout(metadata: Mapping[str, str]) -> Layout:
    """Return the layout of a file with this metadata, which names a key of GGUF_ARCHITECTURES."""
    name = metadata["general.architecture"]
    head_size = int(metadata[f"{name}.wkv.head_size"])
    rescale = int(metadata.get(f"{name}.rescale_every_n_layers", 0))
    return GGUF_ARCHITECTURES[name].layout(head_size, rescale)


_IS_GGUF = any_name("blk.{i}.{rest}")
#: An initial state, which llama.cpp has no place for.
_STATE = any_name("blocks.{i}.att.time_state")


def _weight(ours: str, theirs: str, *steps: Step) -> Rule:
    return Rule(f"blocks.{{i}}.{ours}", f"blk.{{i}}.{theirs}.weight", steps)


def _matrix(ours: str, theirs: str) -> Rule:
    return _weight(f"{ours}.weight", theirs)


def _module(ours: str, theirs: str) -> Rule:
    return Rule(f"blocks.{{i}}.{ours}.{{rest}}", f"blk.{{i}}.{theirs}.{{rest}}")


def _fused(ours: str, order: str) -> Rule:
    return Rule(
        tuple(f"blocks.{{i}}.att.{ours}_{name}" for name in order),
        "blk.{i}.time_mix_lerp_fused.weight",
        (vector(3, 4),),
    )


_FRAME = (
    Rule("emb.weight", "token_embd.weight"),
    Rule("blocks.0.ln0.{rest}", "token_embd_norm.{rest}"),
    Rule("ln_out.{rest}", "output_norm.{rest}"),
    Rule("head.weight", "output.weight"),
    _module("ln1", "attn_norm"),
    _module("ln2", "attn_norm_2"),
    _module("att.ln_x", "time_mix_ln"),
    *(_matrix(f"att.{name}", f"time_mix_{name}") for name in ("receptance", "key", "value", "gate")),
    *(_matrix(f"ffn.{name}", f"channel_mix_{name}") for name in ("receptance", "key")),
)
_OUTPUTS = (("att.output.weight", "time_mix_output"), ("ffn.value.weight", "channel_mix_value"))


def _rwkv6(head_size: int, rescale: int) -> Layout:
    def share(layer: int) -> tuple[Step, ...]:
        return (divided(layer // rescale),) if rescale and layer >= rescale else ()

    return Layout(
        "llama.cpp, RWKV-6",
        _IS_GGUF,
        (
            *_FRAME,
            *(
                Rule(f"blocks.{{i}}.{ours}", f"blk.{{i}}.{theirs}.weight", steps_of_layer=share)
                for ours, theirs in _OUTPUTS
            ),
            # Files hold the mixes fused, or, if they are of 2024, one by one.
            _fused("time_maa", "wkvrg"),
            *(_weight(f"att.time_maa_{name}", f"time_mix_lerp_{name}", vector(3, 1)) for name in "xwkvrg"),
            _weight("att.time_maa_w1", "time_mix_w1", TRANSPOSED),
            _weight("att.time_maa_w2", "time_mix_w2", TRANSPOSED),
            _weight("att.time_faaaa", "time_mix_first"),
            _weight("att.time_decay", "time_mix_decay", vector(3, 1)),
            _weight("att.time_decay_w1", "time_mix_decay_w1", TRANSPOSED),
            _weight("att.time_decay_w2", "time_mix_decay_w2", TRANSPOSED),
            *(_weight(f"ffn.time_maa_{name}", f"channel_mix_lerp_{name}", vector(3, 1)) for name in "kr"),
        ),
        holds=lambda shapes: has_dynamic_mixes(shapes) and not _STATE(shapes),
    )


def _rwkv7(head_size: int, rescale: int) -> Layout:
    return Layout(
        "llama.cpp, RWKV-7",
        _IS_GGUF,
        (
            *_FRAME,
            *(_weight(ours, theirs) for ours, theirs in _OUTPUTS),
            _fused("x", "rwkvag"),
            *(_weight(f"att.{name}0", f"time_mix_{name}0", vector(3, 1)) for name in "wav"),
            *(_weight(f"att.{name}{n}", f"time_mix_{name}{n}", TRANSPOSED) for name in "wavg" for n in "12"),
            *(_weight(f"att.{name}", f"time_mix_{name}", vector(3, 1)) for name in ("k_k", "k_a")),
            _weight("att.r_k", "time_mix_r_k", heads(head_size)),
            _weight("ffn.x_k", "channel_mix_lerp_k", vector(3, 1)),
        ),
        holds=lambda shapes: has_delta_rule(shapes) and not _STATE(shapes),
        omitted=tuple(f"blocks.0.att.v{n}" for n in "012"),
        # Layer 0 has no value residual, but llama.cpp wants its tensors; it does not use them.
        repeated=tuple(
            Rule(f"blocks.0.att.a{n}", f"blk.0.time_mix_v{n}.weight", (vector(3, 1) if n == "0" else TRANSPOSED,))
            for n in "012"
        ),
    )


_WIDTHS = {
    "embedding_length": ("token_embd.weight", 1),
    "feed_forward_length": ("blk.0.channel_mix_key.weight", 0),
}

GGUF_ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "rwkv6": GgufArchitecture(
        _rwkv6,
        {
            **_WIDTHS,
            "wkv.head_size": ("blk.0.time_mix_first.weight", 1),
            "time_mix_extra_dim": ("blk.0.time_mix_w2.weight", 2),
            "time_decay_extra_dim": ("blk.0.time_mix_decay_w1.weight", 0),
        },
    ),
    "rwkv7": GgufArchitecture(
        _rwkv7,
        {
            **_WIDTHS,
            "attention.decay_lora_rank": ("blk.0.time_mix_w1.weight", 0),
            "attention.iclr_lora_rank": ("blk.0.time_mix_a1.weight", 0),
            "attention.value_residual_mix_lora_rank": ("blk.{last}.time_mix_v1.weight", 0),
            "attention.gate_lora_rank": ("blk.0.time_mix_g1.weight", 0),
        },
    ),
}

#: Relatives of RWKV that llama.cpp runs and this package does not, with the reason.
GGUF_RELATIVES: Mapping[str, str] = {
    "rwkv6qwen2": "QRWKV6, which puts the time mix of RWKV-6 into the layers of Qwen2",
    "arwkv7": "ARWKV-7, which puts the time mix of RWKV-7 into the layers of Qwen2",
}
