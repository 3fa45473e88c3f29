"""Foreign checkpoints: one file a format, all behind :class:`rwkv_cy.tensors.tensor.ParameterSource`."""

from rwkv_cy.formats.huggingface import companions
from rwkv_cy.formats.metadata import NORMALIZED_EMBEDDING
from rwkv_cy.formats.recognise import open_checkpoint

__all__ = ["NORMALIZED_EMBEDDING", "companions", "open_checkpoint"]
