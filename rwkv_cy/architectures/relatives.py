"""Kinds of model and file that are recognised by their tensors and refused by name, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rwkv_cy.architectures.base import Shapes

__all__ = ["RELATIVES", "Relative"]


@dataclass(frozen=True)
class Relative:
    """What is recognised and not run.

    Attributes
    ----------
    label : str
        Name for people.
    matches : callable
        Whether tensors of these names and shapes are of this kind.
    reason : str
        Why it is refused.
    """

    label: str
    matches: Callable[[Shapes], bool]
    reason: str = "which is not supported yet"


def _any(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes for part in parts)


def _both(one: str, other: str) -> Callable[[Shapes], bool]:
    return lambda shapes: _any(one)(shapes) and _any(other)(shapes)


def _is_52(shapes: Shapes) -> bool:
    shape = shapes.get("blocks.0.att.time_decay", ())
    return _any(".att.ln_x.")(shapes) and len(shape) >= 2 and shape[1] > 1


def _only_states(shapes: Shapes) -> bool:
    return bool(shapes) and all(name.endswith("time_state") for name in shapes)


#: The first that fits names the file. Adapters and state files come first, then variants before what they vary.
RELATIVES: tuple[Relative, ...] = (
    Relative("a LoRA adapter", _any("lora_A", ".lora_a", "lora_M"), "which has to be merged into its model first"),
    Relative(
        "a state file (time_state only)", _only_states, "which is loaded beside its model: load_state, or --state"
    ),
    Relative("RWKV-8 with ROSA", _any(".rosa", "rosa1."), "which is not a recurrent model of constant state"),
    Relative("RWKV-8 rc00-hybrid", _both("ffn.enn", ".qkv."), "whose attention keeps every past token"),
    Relative("RWKV-7b", _both(".att.r_k", ".qkv."), "whose attention keeps every past token"),
    Relative("RWKV-7a", _any("ffn.s_emb")),
    Relative("RWKV-8 rc00", _any("ffn.enn")),
    Relative("RWKV-6a, 6b or 6c", _any("att.gate_w1", "att.time_maa_rkvw_")),
    Relative("RWKV-4a or 4b", _any(".tiny_"), "whose attention keeps every past token"),
    Relative(
        "a training-only variant of RWKV-4",
        _any("ffnPre", "head_q.", ".att.qq", ".att.oo", ".ffn.aa"),
        "for which no weights were published",
    ),
    Relative("RWKV-6", _any(".att.time_maa_x")),
    Relative("RWKV-5.2", _is_52),
    Relative("RWKV-5.1", _both(".att.ln_x.", ".att.gate.")),
    Relative("RWKV-5.0", lambda shapes: _any(".att.ln_x.")(shapes) and not _any(".att.r_k")(shapes)),
)
