"""Types of the compiled module rwkv_cy.kernels.time_mix_gradient."""

from rwkv_cy.kernels.gradient import MixGradient
from rwkv_cy.kernels.time_mix import BaseTimeMix

class BaseTimeMixGradient(MixGradient):
    def __init__(self, mix: BaseTimeMix, lerped: bool) -> None: ...
