"""The tensors of rwkv.cpp's files (``.bin``): decays and bonuses computed, axes added for heads, mixes of RWKV-7 fused.

Source: github.com/RWKV/rwkv.cpp, python/convert_pytorch_to_ggml.py and rwkv_graph.inc. What it calls RWKV-5.1 is 5.0
here, as for the authors of RWKV. It takes every RWKV-5 with a gate for 5.2, and 5.1 then for one with a single head. So
5.1 is written as 5.2, with each number of a head repeated; files that its script made of 5.1 are read all the same.

In RWKV-5 its GroupNorm adds 1e-5 to the variance of what its authors divide by 8 first, so that they add 64e-5. The
input of the GroupNorm is linear in the values: what rwkv.cpp computes of a file is the original with values times 8.
"""

from __future__ import annotations

from rwkv_cy.formats.layouts.layout import Layout, Rule, Shapes, any_name
from rwkv_cy.formats.layouts.original import (
    has_delta_rule,
    has_dynamic_mixes,
    has_head_decay,
    has_vector_state,
    vectors,
)
from rwkv_cy.formats.layouts.steps import (
    DOUBLE_EXPONENTIAL,
    NEGATED_EXPONENTIAL,
    TRANSPOSED,
    columns,
    divided,
    per_head,
    repeated,
    vector,
)

__all__ = ["RWKVCPP", "RWKVCPP_WRITTEN"]

_ATT, _FFN = "blocks.{i}.att", "blocks.{i}.ffn"
_DECAY, _FIRST, _BONUS = (f"{_ATT}.time_{name}" for name in ("decay", "first", "faaaa"))
_GATE = any_name(f"{_ATT}.gate.weight")
_HAS_BONUS = any_name(_BONUS)
_STATE = any_name(f"{_ATT}.time_state")

_MIXES = (
    *vectors(f"{_ATT}.time_mix_{{name}}", "k v r g", 3, 1),
    *vectors(f"{_FFN}.time_mix_{{name}}", "k r", 3, 1),
)

RWKVCPP_4 = Layout(
    "rwkv.cpp, RWKV-4",
    has_vector_state,
    (
        Rule(_DECAY, _DECAY, (vector(1, 1), NEGATED_EXPONENTIAL)),
        *vectors(f"{_ATT}.{{name}}", "time_first", 1, 1),
        *_MIXES,
    ),
    holds=has_vector_state,
)


def _is_50(shapes: Shapes) -> bool:
    return has_head_decay(shapes) and not _GATE(shapes)


def _is_gated(shapes: Shapes) -> bool:
    return has_head_decay(shapes) and _GATE(shapes)


def _has_wide_decay(shapes: Shapes) -> bool:
    return len(shapes.get(_DECAY.format(i=0), ())) == 2


_VALUE = f"{_ATT}.value.weight"
_FRAME_5 = (Rule(_VALUE, _VALUE, (divided(3),)), *_MIXES)
_DECAY_5 = Rule(_DECAY, _DECAY, (DOUBLE_EXPONENTIAL, columns(3)))
#: Its own name for the bonus of a head, whatever the original checkpoint called it.
_PLAIN_FIRST = Rule(_BONUS, _FIRST, (columns(3),))

RWKVCPP_50 = Layout(
    "rwkv.cpp, RWKV-5.0",
    _is_50,
    (_DECAY_5, _PLAIN_FIRST, *_FRAME_5),
    holds=lambda shapes: _is_50(shapes) and _HAS_BONUS(shapes) and not _STATE(shapes),
)


def _rules_51(head_size: int) -> tuple[Rule, ...]:
    """Return the rules that make RWKV-5.2 of RWKV-5.1."""
    wide = repeated(head_size), columns(3)
    return (
        Rule(_DECAY, _DECAY, (DOUBLE_EXPONENTIAL, *wide)),
        Rule(_BONUS, _BONUS, wide),
        *_FRAME_5,
    )


def _head_size(shapes: Shapes) -> int:
    return shapes["blocks.0.att.receptance.weight"][0] // shapes[_DECAY.format(i=0)][0]


RWKVCPP_51 = Layout(
    "rwkv.cpp, RWKV-5.1",
    _is_gated,
    _rules_51(1),
    holds=lambda shapes: _is_gated(shapes) and not _has_wide_decay(shapes) and not _STATE(shapes),
    rules_of=lambda shapes: _rules_51(_head_size(shapes)),
)

RWKVCPP_52 = Layout(
    "rwkv.cpp, RWKV-5.2",
    _is_gated,
    (_DECAY_5, Rule(_BONUS, _BONUS, (columns(3),)), _PLAIN_FIRST, *_FRAME_5),
    holds=lambda shapes: _is_gated(shapes) and _has_wide_decay(shapes) and not _STATE(shapes),
)


_FACTORS_6 = tuple(f"{_ATT}.time_{name}_w{n}" for name in ("maa", "decay") for n in "12")


def _rules_6(head_size: int) -> tuple[Rule, ...]:
    return (
        *vectors(f"{_ATT}.time_maa_{{name}}", "x w k v r g", 3, 1),
        *vectors(f"{_FFN}.time_maa_{{name}}", "k r", 3, 1),
        *(Rule(name, name, (TRANSPOSED,)) for name in _FACTORS_6),
        Rule(_DECAY, _DECAY, (per_head(head_size, 3),)),
        Rule(_BONUS, _BONUS, (columns(3),)),
    )


RWKVCPP_6 = Layout(
    "rwkv.cpp, RWKV-6",
    has_dynamic_mixes,
    _rules_6(1),
    holds=lambda shapes: has_dynamic_mixes(shapes) and not _STATE(shapes),
    rules_of=lambda shapes: _rules_6(shapes[_BONUS.format(i=0)][1]),
)

RWKVCPP_7 = Layout(
    "rwkv.cpp, RWKV-7",
    any_name(f"{_ATT}.x_rwkvag"),
    (
        Rule(tuple(f"{_ATT}.x_{name}" for name in "rwkvag"), f"{_ATT}.x_rwkvag", (vector(3, 3),)),
        *(Rule(name, name, (TRANSPOSED,)) for name in (f"{_ATT}.{m}{n}" for m in "wavg" for n in "12")),
        *vectors(f"{_ATT}.{{name}}", "w0 a0 v0 k_k k_a", 3, 3),
        *vectors(f"{_FFN}.{{name}}", "x_k", 3, 3),
    ),
    holds=lambda shapes: has_delta_rule(shapes) and not _STATE(shapes),
    # rwkv.cpp ends the process where a file has a tensor that it does not use.
    omitted=tuple(f"blocks.0.att.v{n}" for n in "012"),
)

#: The layouts of files to be read; the first that matches applies.
RWKVCPP = (RWKVCPP_4, RWKVCPP_7, RWKVCPP_6, RWKVCPP_50, RWKVCPP_52)
#: The layouts that models are written in.
RWKVCPP_WRITTEN = (RWKVCPP_4, RWKVCPP_50, RWKVCPP_51, RWKVCPP_52, RWKVCPP_6, RWKVCPP_7)
