"""Foreign checkpoints: one file a format, all behind :class:`rwkv_cy.parameters.ParameterSource`."""
