"""Foreign checkpoints: one file a format, all behind :class:`rwkv_cy.parameters.ParameterSource`."""

from rwkv_cy.formats.recognise import open_checkpoint

__all__ = ["open_checkpoint"]
