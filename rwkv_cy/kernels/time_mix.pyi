"""Types of the compiled module rwkv_cy.kernels.time_mix."""

from collections.abc import Mapping
from typing import Any

from rwkv_cy.kernels.stack import Mix

class BaseTimeMix(Mix):
    def __init__(
        self,
        config: Any,
        offsets: Mapping[str, int],
        parameters: Mapping[str, Any],
        output_scale: float,
        activations: str,
    ) -> None: ...
