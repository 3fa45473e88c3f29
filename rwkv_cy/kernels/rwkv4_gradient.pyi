"""Types of the compiled module rwkv_cy.kernels.rwkv4_gradient."""

from rwkv_cy.kernels.gradient import MixGradient
from rwkv_cy.kernels.rwkv4 import ChannelMix, TimeMix

class TimeMixGradient(MixGradient):
    def __init__(self, mix: TimeMix) -> None: ...

class ChannelMixGradient(MixGradient):
    def __init__(self, mix: ChannelMix, mixes: str = "ffn.time_mix_") -> None: ...
