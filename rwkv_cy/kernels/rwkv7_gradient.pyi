"""Types of the compiled module rwkv_cy.kernels.rwkv7_gradient."""

from rwkv_cy.kernels.gradient import MixGradient
from rwkv_cy.kernels.rwkv7 import ChannelMix, TimeMix

class TimeMixGradient(MixGradient):
    def __init__(self, mix: TimeMix) -> None: ...

class ChannelMixGradient(MixGradient):
    def __init__(self, mix: ChannelMix) -> None: ...
