"""Types of the compiled module rwkv_cy.kernels.rwkv5_gradient."""

from rwkv_cy.kernels.gradient import MixGradient
from rwkv_cy.kernels.rwkv5 import TimeMix

class TimeMixGradient(MixGradient):
    def __init__(self, mix: TimeMix) -> None: ...
