"""web-rwkv's safetensors files (``.st``): low-rank factors and initial states transposed, RWKV-6 under other names.

Source: github.com/cryscan/web-rwkv, assets/scripts/convert_safetensors.py. Files of RWKV-4 have the original layout. It
writes RWKV-5.1 as RWKV-5.2, with each number of a head's decay and bonus repeated; these files are read as RWKV-5.2,
which computes the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rwkv_cy.formats.layouts.layout import Layout, Rule, Shapes, any_name
from rwkv_cy.formats.layouts.original import (
    VECTORS,
    has_delta_rule,
    has_dynamic_mixes,
    has_head_decay,
    vectors,
)
from rwkv_cy.formats.layouts.steps import TRANSPOSED, Step, repeated, vector

__all__ = ["WEB_RWKV_5", "WEB_RWKV_6", "WEB_RWKV_6_PLAIN", "WEB_RWKV_7", "WEB_RWKV_51"]

_FACTOR = re.compile(r"blocks\.\d+\.att\.(?:[wavg]|time_mix_w|time_decay_w)([12])")
_ATT, _FFN = "blocks.{i}.att", "blocks.{i}.ffn"


def _has_transposed_factors(shapes: Shapes) -> bool:
    """Tell whether low-rank factors, here (C, rank) and (rank, C), are the other way round.

    A factor whose rank equals its other axis does not tell; the others of the file do.
    """
    d_model = shapes.get("emb.weight", (0, 0))[-1]
    d_att = shapes.get("blocks.0.att.receptance.weight", (d_model,))[0]
    for name, shape in shapes.items():
        match = _FACTOR.fullmatch(name)
        if not match or len(shape) != 2 or shape[0] == shape[1]:
            continue
        # The axis that is not the rank: the first of factor 1, the last of factor 2.
        width, place = (d_model, 0) if match[1] == "1" else (d_att, 1)
        if (shape[0] == width) != (shape[1] == width):
            return shape[place] != width
    return False


def _writes_5(axes: int) -> Callable[[Shapes], bool]:
    """Return a test for RWKV-5 with a gate, whose bonus has so many axes."""
    bonus, gate = "blocks.0.att.time_faaaa", "blocks.0.att.gate.weight"
    return lambda shapes: has_head_decay(shapes) and gate in shapes and len(shapes.get(bonus, ())) == axes


def _has_wide_bonus(shapes: Shapes) -> bool:
    """Tell whether a time_first is the bonus of RWKV-5.2, one number for each channel of a head."""
    first = shapes.get("blocks.0.att.time_first", ())
    return len(first) == 2 and first[1] > 1 and "blocks.0.att.ln_x.weight" in shapes


_MIXES_6 = any_name(f"{_ATT}.time_mix_x")
_BONUS_7 = any_name(f"{_ATT}.r_k")
_STATE = Rule(f"{_ATT}.time_state", f"{_ATT}.time_state", (TRANSPOSED,))
_BONUS = Rule(f"{_ATT}.time_faaaa", f"{_ATT}.time_first")


def _rules_6(*factor: Step) -> tuple[Rule, ...]:
    """Return the rules of RWKV-6, whose low-rank factors change by these steps."""
    mixes = ((_ATT, name) for name in "xwkvrg"), ((_FFN, name) for name in "kr")
    return (
        *(
            Rule(f"{_ATT}.{ours}_w{n}", f"{_ATT}.{theirs}_w{n}", factor)
            for ours, theirs in (("time_maa", "time_mix"), ("time_decay", "time_decay"))
            for n in "12"
        ),
        *(
            Rule(f"{block}.time_maa_{name}", f"{block}.time_mix_{name}", (vector(3, 3),))
            for names in mixes
            for block, name in names
        ),
        *vectors(f"{_ATT}.{{name}}", "time_decay", 3, 3),
        _BONUS,
        _STATE,
    )


WEB_RWKV_5 = Layout(
    "web-rwkv, RWKV-5.2",
    _has_wide_bonus,
    (_BONUS, _STATE, *VECTORS),
    holds=_writes_5(2),
)


def _widened(shapes: Shapes) -> tuple[Rule, ...]:
    """Return the rules of what RWKV-5.1 has once for a head, and the project for each of its channels."""
    heads = shapes.get("blocks.0.att.time_decay", (1,))[0]
    d_att = shapes.get("blocks.0.att.receptance.weight", (heads,))[0]
    wide = (repeated(d_att // heads),)
    return (
        Rule(f"{_ATT}.time_decay", f"{_ATT}.time_decay", wide),
        Rule(f"{_ATT}.time_faaaa", f"{_ATT}.time_first", wide),
    )


#: What RWKV-5.1 is written in: a model of RWKV-5.2, with equal columns in each head. Nothing is read by it.
WEB_RWKV_51 = Layout(
    "web-rwkv, RWKV-5.1", WEB_RWKV_5.matches, (_STATE, *VECTORS), holds=_writes_5(1), rules_of=_widened
)


WEB_RWKV_6 = Layout(
    "web-rwkv, RWKV-6",
    lambda shapes: _MIXES_6(shapes) and _has_transposed_factors(shapes),
    _rules_6(TRANSPOSED),
    holds=has_dynamic_mixes,
)

#: Its names, with the factors as they were.
WEB_RWKV_6_PLAIN = Layout("web-rwkv, RWKV-6, factors not transposed", _MIXES_6, _rules_6(), holds=has_dynamic_mixes)

WEB_RWKV_7 = Layout(
    "web-rwkv, RWKV-7",
    lambda shapes: _BONUS_7(shapes) and _has_transposed_factors(shapes),
    (
        *(Rule(name, name, (TRANSPOSED,)) for name in (f"{_ATT}.{m}{n}" for m in "wavg" for n in "12")),
        _STATE,
        *VECTORS,
    ),
    holds=has_delta_rule,
)
