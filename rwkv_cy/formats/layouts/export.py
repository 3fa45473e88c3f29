"""Layouts that models are written in, by project."""

from __future__ import annotations

from rwkv_cy.errors import UnsupportedError
from rwkv_cy.formats.layouts.fla import FLA, FLA_6
from rwkv_cy.formats.layouts.gguf import GGUF_ARCHITECTURES
from rwkv_cy.formats.layouts.huggingface import HUGGINGFACE_4, HUGGINGFACE_7, HUGGINGFACE_WRITTEN
from rwkv_cy.formats.layouts.layout import Layout, Shapes
from rwkv_cy.formats.layouts.original import ORIGINAL, ORIGINAL_4, ORIGINAL_5, ORIGINAL_6
from rwkv_cy.formats.layouts.rwkvcpp import RWKVCPP_WRITTEN
from rwkv_cy.formats.layouts.web_rwkv import WEB_RWKV_5, WEB_RWKV_6, WEB_RWKV_7, WEB_RWKV_51

__all__ = ["EXPORT_LAYOUTS", "export_layout"]

#: Ends the name of a layer's initial state.
_STATE = ".att.time_state"

#: Layouts that models are written in, by their names for users: the first that holds the model applies.
EXPORT_LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "original": (ORIGINAL_4, ORIGINAL_5, ORIGINAL_6, ORIGINAL),
    "transformers": (HUGGINGFACE_4, HUGGINGFACE_WRITTEN, HUGGINGFACE_7),
    "fla": (FLA, FLA_6),
    # What is written does not depend on the head size.
    "llama.cpp": tuple(architecture.layout(1, 0) for architecture in GGUF_ARCHITECTURES.values()),
    "web-rwkv": (ORIGINAL_4, WEB_RWKV_51, WEB_RWKV_5, WEB_RWKV_6, WEB_RWKV_7),
    "rwkv.cpp": RWKVCPP_WRITTEN,
}


def export_layout(name: str, shapes: Shapes, label: str) -> Layout:
    """Return the layout that a model is written in.

    Parameters
    ----------
    name : str
        Key of EXPORT_LAYOUTS.
    shapes : mapping of str to tuple of int
        Canonical names and shapes of the model.
    label : str
        The version, for messages.

    Raises
    ------
    UnsupportedError
        If the project does not run that version, or has no place for an initial state, or its layout is not known.
    """
    for layout in EXPORT_LAYOUTS[name]:
        if layout.holds(shapes):
            return layout
    stateless = {parameter: shape for parameter, shape in shapes.items() if not parameter.endswith(_STATE)}
    if any(layout.holds(stateless) for layout in EXPORT_LAYOUTS[name]):
        raise UnsupportedError(
            f"layout {name}: expected a model without an initial state, got one with time_state, which the project "
            "does not read; choose another layout, or the model that the state was tuned for"
        )
    known = ", ".join(sorted(layout.versions for layout in EXPORT_LAYOUTS[name]))
    raise UnsupportedError(f"layout {name}: expected a model of {known}, got {label}; choose another layout or format")
