"""The original checkpoints of RWKV (BlinkDL's names and shapes): what every other layout is brought back to."""

from __future__ import annotations

from rwkv_cy.formats.layouts.layout import Layout, Rule, Shapes, any_name
from rwkv_cy.formats.layouts.steps import LOGARITHM, ONE_COLUMN, vector

__all__ = [
    "ORIGINAL",
    "ORIGINAL_4",
    "ORIGINAL_5",
    "ORIGINAL_6",
    "VECTORS",
    "VECTORS_6",
    "has_delta_rule",
    "has_dynamic_mixes",
    "has_head_decay",
    "has_vector_state",
    "vectors",
]


def vectors(template: str, names: str, canonical: int, foreign: int) -> tuple[Rule, ...]:
    """Return a rule for each of some vectors that have so many axes here and there.

    Parameters
    ----------
    template : str
        Of both names, with ``{name}`` in it.
    names : str
        What stands for it, separated by spaces.
    canonical, foreign : int
        Axes, all but the last of length 1.
    """
    filled = (template.replace("{name}", name) for name in names.split())
    return tuple(Rule(name, name, (vector(canonical, foreign),)) for name in filled)


def has_vector_state(shapes: Shapes) -> bool:
    """Tell whether the state is one of vectors, as in RWKV-4 alone: a time_first, and no normalisation after it."""
    return _FIRST(shapes) and not _NORM(shapes)


def has_head_decay(shapes: Shapes) -> bool:
    """Tell whether the decay is constant and the state one of matrices, as in RWKV-5 alone."""
    return _DECAY(shapes) and _NORM(shapes) and not _DYNAMIC(shapes)


def has_dynamic_mixes(shapes: Shapes) -> bool:
    """Tell whether the mixes depend on the token, as in RWKV-6 alone."""
    return _DYNAMIC(shapes)


def has_delta_rule(shapes: Shapes) -> bool:
    """Tell whether the state is updated by a delta rule, as in RWKV-7, and nothing is added to its channel mix."""
    return _BONUS(shapes) and not _ADDED(shapes)


_FIRST = any_name("blocks.{i}.att.time_first", "blocks.{i}.attention.time_first")
_DECAY = any_name("blocks.{i}.att.time_decay", "blocks.{i}.attention.time_decay")
_NORM = any_name("blocks.{i}.att.ln_x.{rest}", "blocks.{i}.attention.ln_x.{rest}")
_DYNAMIC = any_name("blocks.{i}.att.time_maa_x", "blocks.{i}.attention.time_maa_x")
_BONUS = any_name("blocks.{i}.att.r_k")
_ADDED = any_name("blocks.{i}.ffn.s_emb{rest}", "blocks.{i}.ffn.enn{rest}")
_NAMES = any_name("blocks.{i}.att.{rest}", "blocks.{i}.ffn.{rest}")

#: Vectors of any version: some projects squeeze them but keep the names.
VECTORS = (
    *vectors("blocks.{i}.att.time_mix_{name}", "k v r g", 3, 3),
    *vectors("blocks.{i}.ffn.time_mix_{name}", "k r", 3, 3),
    *vectors("blocks.{i}.att.{name}", "x_r x_w x_k x_v x_a x_g w0 a0 v0 k_k k_a", 3, 3),
    *vectors("blocks.{i}.ffn.{name}", "x_k", 3, 3),
    *vectors("blocks.{i}.ffn.{name}", "s0", 1, 1),
)

#: Those of RWKV-6, whose decay is one vector; in RWKV-5 the shape of the decay tells the version.
VECTORS_6 = (
    *vectors("blocks.{i}.att.time_maa_{name}", "x w k v r g", 3, 3),
    *vectors("blocks.{i}.att.{name}", "time_decay", 3, 3),
    *vectors("blocks.{i}.ffn.time_maa_{name}", "k r", 3, 3),
)

#: RWKV-4, in BlinkDL's checkpoints and in web-rwkv's files.
ORIGINAL_4 = Layout(
    "BlinkDL, RWKV-4",
    lambda shapes: _NAMES(shapes) and has_vector_state(shapes),
    (*VECTORS, *vectors("blocks.{i}.att.{name}", "time_decay time_first", 1, 1)),
    holds=has_vector_state,
)

#: In RWKV-5, numbers of heads may be a column. Its first checkpoints hold the logarithm of the bonus, as time_first.
ORIGINAL_5 = Layout(
    "BlinkDL, RWKV-5",
    lambda shapes: _NAMES(shapes) and has_head_decay(shapes),
    (
        *(Rule(name, name, (ONE_COLUMN,)) for name in (f"blocks.{{i}}.att.{n}" for n in ("time_decay", "time_faaaa"))),
        Rule("blocks.{i}.att.time_faaaa", "blocks.{i}.att.time_first", (ONE_COLUMN, LOGARITHM)),
        *VECTORS,
    ),
    holds=has_head_decay,
)

ORIGINAL_6 = Layout(
    "BlinkDL, RWKV-6",
    lambda shapes: _NAMES(shapes) and has_dynamic_mixes(shapes),
    VECTORS_6,
    holds=has_dynamic_mixes,
)

#: All other versions.
ORIGINAL = Layout("BlinkDL", _NAMES, VECTORS)
