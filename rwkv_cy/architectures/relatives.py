"""Kinds of model and file that are recognised by their tensors and refused by name, with the reason."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

from rwkv_cy.architectures.base import Shapes
from rwkv_cy.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RELATIVES", "Relative", "lines"]

Matcher: TypeAlias = "Callable[[Shapes, str], bool]"


@dataclass(frozen=True)
class Relative:
    """What is recognised and not run.

    Attributes
    ----------
    label : str
        Name for people.
    matches : callable
        Whether tensors of these names and shapes are of this kind; it is given their names in lines too, as
        :func:`lines` returns them.
    reason : str
        Why it is refused, or what to do.
    """

    label: str
    matches: Matcher
    reason: str


def lines(shapes: Shapes) -> str:
    """Return all names, one in a line: searched as one text, thousands of them take no time."""
    return "\n".join(shapes)


def _any(*parts: str) -> Matcher:
    """Return a test for a name that has one of these parts."""
    return lambda shapes, names: any(part in names for part in parts)


def _both(one: str, other: str) -> Matcher:
    return lambda shapes, names: one in names and other in names


def _adapters(label: str, word: str, suffix: str) -> tuple[Relative, Relative]:
    """Return a model with adapters that are not merged, and adapters alone.

    `suffix` is a pattern of their names, `word` a text in all of them.
    """
    begin, end = rf"(?m:^(.*)\.{suffix}$)", rf"(?m:\.{suffix}$)"

    def has_one(shapes: Shapes, names: str) -> bool:
        return word in names and re.search(end, names) is not None

    def beside_their_matrices(shapes: Shapes, names: str) -> bool:
        modules = (match[1] for match in re.finditer(begin, names)) if has_one(shapes, names) else ()
        return any(
            f"{module}{weight}" in shapes for module in modules for weight in ("", ".weight", ".base_layer.weight")
        )

    return (
        Relative(
            f"a model with unmerged {label} adapters",
            beside_their_matrices,
            "which have to be merged into its matrices first; merge them with the program that trained them",
        ),
        Relative(
            f"a {label} adapter",
            has_one,
            "which has to be merged into its model first; merge it: rwkv-cy merge MODEL ADAPTER TARGET",
        ),
    )


def _only_states(shapes: Shapes, names: str) -> bool:
    return bool(shapes) and all(name.endswith("time_state") for name in shapes)


def _has_line(word: str, pattern: str) -> Matcher:
    """Return a test for a name that begins with a pattern, which has `word` in it."""
    return lambda shapes, names: word in names and re.search(rf"(?m:^{pattern})", names) is not None


def _is_3(shapes: Shapes, names: str) -> bool:
    decay = shapes.get("blocks.0.att.time_decay", ())
    return len(decay) == 2 and decay[1] == 1 < decay[0] and ".att.ln_x." not in names


_KEEPS_TOKENS = "whose attention keeps every past token; run it with its authors' code"
_TRANSFORMER = "which needs a transformer's layers beside those of RWKV; run it with transformers or llama.cpp"

#: What varies a version that may be supported, or is not a model. The first that fits names the file.
RELATIVES: tuple[Relative, ...] = (
    # Files that are not a model of their own.
    *_adapters("PiSSA", "init_lora_", r"init_lora_[AB]"),
    *_adapters("LoRA", "lora", r"(?:lora_(?:[ABMab]|embedding_[AB]|magnitude_vector)(?:\..*)?|lora\.[01])"),
    *_adapters("DiSHA", "disha", r"disha"),
    *_adapters("Bone", "bone", r"bone"),
    Relative(
        "a state file (time_state only)",
        _only_states,
        "which belongs to a model; load the model, and this file with load_state or --state",
    ),
    # Models with layers of a transformer.
    Relative("RWKV-X", lambda shapes, names: ".moba." in names or "\nmoba." in f"\n{names}", _KEEPS_TOKENS),
    Relative("QRWKV (Qwen2 with mixes of RWKV-6)", _any(".self_attn.time_maa_"), _TRANSFORMER),
    Relative("ARWKV (Qwen2 with mixes of RWKV-7)", _any(".time_mixer."), _TRANSFORMER),
    Relative(
        "HRWKV (RWKV-7 beside attention)",
        _any(".self_attn.receptance.", ".att.r_norm.", ".att.ln_r."),
        "some of whose layers are a transformer's; run it with its authors' code",
    ),
    Relative(
        "RWKV with attention layers",
        lambda shapes, names: ".att.q_proj." in names and (".att.r_k" in names or ".att.time_maa_x" in names),
        _KEEPS_TOKENS,
    ),
    Relative(
        "a transformer",
        _any(".self_attn.q_proj.", ".self_attn.qkv_proj."),
        "which is not an RWKV model; run it with transformers",
    ),
    # Variants of RWKV-7 and what is called RWKV-8.
    Relative(
        "RWKV-8 with ROSA",
        _has_line("rosa", r"(?:.*\.)?rosa\d*\."),
        "whose state grows with the text; run it with its authors' code",
    ),
    Relative("RWKV-7b", _both(".ffn.s_emb", ".qkv."), _KEEPS_TOKENS),
    Relative("RWKV-8 rc00-hybrid", _both(".ffn.enn.", ".qkv."), _KEEPS_TOKENS),
    Relative("a variant of RWKV-7 with attention (qkv)", _both(".att.r_k", ".qkv."), _KEEPS_TOKENS),
    # Variants of RWKV-6.
    Relative("RWKV-6b or 6c", _any(".att.time_maa_rkvw_"), "two versions whose files cannot be told apart; use RWKV-6"),
    Relative("RWKV-6a", _any(".att.gate_w1"), "of which no weights were published; use RWKV-6"),
    # What came before RWKV-4, and its variants.
    Relative(
        "RWKV-2",
        _has_line(".time_mix", r"blocks\.\d+\.(?:att|ffn)\.time_mix$"),
        "which mixes keys, values and receptance with the same weights, unlike RWKV-4; use RWKV-4 or later",
    ),
    Relative("RWKV-3", _is_3, "which limits its keys before it exponentiates them, unlike RWKV-4; use RWKV-4 or later"),
    Relative(
        "a model trained with pre_ffn",
        _any(".ffnPre.", ".pre_ffn."),
        "whose first layer has a channel mix in place of the time mix; use a model trained without it",
    ),
    Relative("RWKV-4a or 4b", _any(".tiny_"), _KEEPS_TOKENS),
    Relative(
        "a training-only variant of RWKV-4",
        _any("head_q.", ".att.qq", ".att.oo", ".ffn.aa", "pos_emb_"),
        "for which no weights were published; use a model trained without it",
    ),
)
