"""Layouts that files of any format may have."""

from __future__ import annotations

from rwkv_cy.formats.layouts.fla import FLA, FLA_6, FLA_FUSED, LINEAR_ATTENTION
from rwkv_cy.formats.layouts.huggingface import HUGGINGFACE, HUGGINGFACE_4, HUGGINGFACE_7, HUGGINGFACE_7_RENAMED
from rwkv_cy.formats.layouts.layout import Layout
from rwkv_cy.formats.layouts.original import ORIGINAL, ORIGINAL_4, ORIGINAL_5, ORIGINAL_6
from rwkv_cy.formats.layouts.web_rwkv import WEB_RWKV_5, WEB_RWKV_6, WEB_RWKV_6_PLAIN, WEB_RWKV_7

__all__ = ["LAYOUTS"]

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
