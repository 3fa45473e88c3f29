"""Types of the compiled module rwkv_cy.kernels.rwkv7a."""

from rwkv_cy.kernels.rwkv7 import ChannelMix as ChannelMix7

class ChannelMix(ChannelMix7):
    @property
    def size(self) -> int: ...
