"""web-rwkv's safetensors files (``.st``): original names, low-rank factors and initial states transposed.

Source: github.com/cryscan/web-rwkv, assets/scripts/convert_safetensors.py. Files of RWKV-4 have the original layout.
"""

from __future__ import annotations

import re

from rwkv_cy.formats.layouts.layout import Layout, Rule, Shapes
from rwkv_cy.formats.layouts.original import VECTORS
from rwkv_cy.formats.layouts.steps import TRANSPOSED

__all__ = ["WEB_RWKV_7"]

_FACTOR = re.compile(r"blocks\.\d+\.att\.[wavg]([12])")


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


WEB_RWKV_7 = Layout(
    "web-rwkv, RWKV-7",
    _has_transposed_factors,
    (
        *(Rule(name, name, (TRANSPOSED,)) for name in (f"blocks.{{i}}.att.{m}{n}" for m in "wavg" for n in "12")),
        Rule("blocks.{i}.att.time_state", "blocks.{i}.att.time_state", (TRANSPOSED,)),
        *VECTORS,
    ),
)
