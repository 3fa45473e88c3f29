"""Types of the compiled module rwkv_cy.kernels.rwkv8_rc00_gradient."""

from rwkv_cy.kernels.rwkv7_gradient import ChannelMixGradient as ChannelMixGradient7

class ChannelMixGradient(ChannelMixGradient7): ...
