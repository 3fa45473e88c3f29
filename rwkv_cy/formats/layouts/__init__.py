"""Layouts: other people's names and forms of RWKV's parameters, one table for reading and for writing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rwkv_cy.lazy import names_from

if TYPE_CHECKING:
    from rwkv_cy.formats.layouts.export import EXPORT_LAYOUTS, export_layout
    from rwkv_cy.formats.layouts.known import LAYOUTS
    from rwkv_cy.formats.layouts.layout import Layout

__all__ = ["EXPORT_LAYOUTS", "LAYOUTS", "export_layout", "layouts_of"]

__getattr__ = names_from(__name__, {"known": ("LAYOUTS",), "export": ("EXPORT_LAYOUTS", "export_layout")})


def _of_rwkvcpp(metadata: Mapping[str, str]) -> tuple[Layout, ...]:
    from rwkv_cy.formats.layouts.original import ORIGINAL
    from rwkv_cy.formats.layouts.rwkvcpp import RWKVCPP

    return (*RWKVCPP, ORIGINAL)


def _of_gguf(metadata: Mapping[str, str]) -> tuple[Layout, ...]:
    from rwkv_cy.formats.layouts.gguf import gguf_layout

    return (gguf_layout(metadata),)


#: Formats whose files have layouts of their own, which may depend on the metadata: only theirs are imported.
_OWN = {"rwkvcpp": _of_rwkvcpp, "gguf": _of_gguf}


def layouts_of(format: str, metadata: Mapping[str, str]) -> tuple[Layout, ...]:  # noqa: A002 (of ParameterSource)
    """Return the layouts that files of a format, with that metadata, may have; the first that matches applies."""
    if format in _OWN:
        return _OWN[format](metadata)
    from rwkv_cy.formats.layouts.known import LAYOUTS

    return LAYOUTS
