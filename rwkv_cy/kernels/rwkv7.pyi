"""Types of the compiled module rwkv_cy.kernels.rwkv7."""

from collections.abc import Mapping
from typing import Any

from rwkv_cy.kernels.stack import Mix
from rwkv_cy.kernels.time_mix import BaseTimeMix

class TimeMix(BaseTimeMix):
    def __init__(
        self,
        config: Any,
        offsets: Mapping[str, int],
        parameters: Mapping[str, Any],
        output_scale: float,
        activations: str,
        layer: int,
    ) -> None: ...

class ChannelMix(Mix):
    def __init__(
        self,
        config: Any,
        offsets: Mapping[str, int],
        parameters: Mapping[str, Any],
        output_scale: float,
        activations: str = "f32",
    ) -> None: ...
