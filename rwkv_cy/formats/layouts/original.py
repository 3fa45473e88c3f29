"""The original checkpoints of RWKV (BlinkDL's names and shapes): what every other layout is brought back to."""

from __future__ import annotations

from rwkv_cy.formats.layouts.layout import Layout, Rule, Shapes, any_name
from rwkv_cy.formats.layouts.steps import vector

__all__ = ["ORIGINAL", "ORIGINAL_4", "VECTORS", "has_vector_state", "vectors"]


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


_FIRST = any_name("blocks.{i}.att.time_first", "blocks.{i}.attention.time_first")
_NORM = any_name("blocks.{i}.att.ln_x.{rest}", "blocks.{i}.attention.ln_x.{rest}")
_NAMES = any_name("blocks.{i}.att.{rest}", "blocks.{i}.ffn.{rest}")

#: Vectors of any version: some projects squeeze them but keep the names.
VECTORS = (
    *vectors("blocks.{i}.att.time_mix_{name}", "k v r g", 3, 3),
    *vectors("blocks.{i}.ffn.time_mix_{name}", "k r", 3, 3),
    *vectors("blocks.{i}.att.{name}", "x_r x_w x_k x_v x_a x_g w0 a0 v0 k_k k_a", 3, 3),
    *vectors("blocks.{i}.ffn.{name}", "x_k", 3, 3),
)

#: RWKV-4, in BlinkDL's checkpoints and in web-rwkv's files.
ORIGINAL_4 = Layout(
    "BlinkDL, RWKV-4",
    lambda shapes: _NAMES(shapes) and has_vector_state(shapes),
    (*VECTORS, *vectors("blocks.{i}.att.{name}", "time_decay time_first", 1, 1)),
)

#: All other versions.
ORIGINAL = Layout("BlinkDL", _NAMES, VECTORS)
