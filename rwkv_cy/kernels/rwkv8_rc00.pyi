"""Types of the compiled module rwkv_cy.kernels.rwkv8_rc00."""

from rwkv_cy.kernels.rwkv7 import ChannelMix as ChannelMix7

class ChannelMix(ChannelMix7): ...
