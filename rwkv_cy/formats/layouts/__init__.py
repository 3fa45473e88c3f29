"""Layouts: other people's names and forms of RWKV's parameters, one table for reading and for writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rwkv_cy.errors import UnsupportedError
from rwkv_cy.formats.layouts.fla import FLA, FLA_6, FLA_FUSED, LINEAR_ATTENTION
from rwkv_cy.formats.layouts.gguf import GGUF_ARCHITECTURES, gguf_layout
from rwkv_cy.formats.layouts.huggingface import (
    HUGGINGFACE,
    HUGGINGFACE_4,
    HUGGINGFACE_7,
    HUGGINGFACE_7_RENAMED,
    HUGGINGFACE_WRITTEN,
)
from rwkv_cy.formats.layouts.layout import Layout, Shapes
from rwkv_cy.formats.layouts.original import ORIGINAL, ORIGINAL_4, ORIGINAL_5, ORIGINAL_6
from rwkv_cy.formats.layouts.rwkvcpp import RWKVCPP, RWKVCPP_WRITTEN
from rwkv_cy.formats.layouts.web_rwkv import WEB_RWKV_5, WEB_RWKV_6, WEB_RWKV_6_PLAIN, WEB_RWKV_7, WEB_RWKV_51

__all__ = ["EXPORT_LAYOUTS", "LAYOUTS", "export_layout", "layouts_of"]

#: The first that matches applies, so a variant comes before what it varies.
LAYOUTS: tuple[Layout, ...] = (
    FLA_FUSED,
    FLA,
    FLA_6,
    LINEAR_ATTENTION,
    HUGGINGFACE_4,
    HUGGINGFACE,
    WEB_RWKV_6,
    WEB_RWKV_6_PLAIN,
    WEB_RWKV_5,
    WEB_RWKV_7,
    ORIGINAL_4,
    ORIGINAL_5,
    ORIGINAL_6,
    HUGGINGFACE_7_RENAMED,
    ORIGINAL,
    HUGGINGFACE_7,
)

#: Formats whose files have layouts of their own, which may depend on the metadata.
_OWN: dict[str, Callable[[Mapping[str, str]], tuple[Layout, ...]]] = {
    "rwkvcpp": lambda metadata: (*RWKVCPP, ORIGINAL),
    "gguf": lambda metadata: (gguf_layout(metadata),),
}


def layouts_of(format: str, metadata: Mapping[str, str]) -> tuple[Layout, ...]:  # noqa: A002 (of ParameterSource)
    """Return the layouts that files of a format, with that metadata, may have; the first that matches applies."""
    return _OWN[format](metadata) if format in _OWN else LAYOUTS


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
