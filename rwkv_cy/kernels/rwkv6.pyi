"""Types of the compiled module rwkv_cy.kernels.rwkv6."""

from rwkv_cy.kernels.time_mix import BaseTimeMix

class TimeMix(BaseTimeMix): ...
