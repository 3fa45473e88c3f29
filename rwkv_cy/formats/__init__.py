"""Foreign checkpoints: one file a format, all behind :class:`rwkv_cy.tensors.tensor.ParameterSource`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkv_cy.lazy import names_from

if TYPE_CHECKING:
    from rwkv_cy.formats.huggingface import companions
    from rwkv_cy.formats.metadata import NORMALIZED_EMBEDDING
    from rwkv_cy.formats.recognise import open_checkpoint

__all__ = ["NORMALIZED_EMBEDDING", "companions", "open_checkpoint"]

__getattr__ = names_from(
    __name__,
    {"huggingface": ("companions",), "metadata": ("NORMALIZED_EMBEDDING",), "recognise": ("open_checkpoint",)},
)
