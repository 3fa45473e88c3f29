"""Types of the compiled module rwkv_cy.kernels.rwkv4."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.matrix import Workspace

# A config and parameters come from floors above, which this one does not import: they are Any here.

class TimeMix:
    def __init__(
        self, config: Any, parameters: Mapping[str, Any], output_scale: float, activations: str = "f32"
    ) -> None: ...
    @property
    def d_model(self) -> int: ...
    @property
    def d_att(self) -> int: ...
    def forward(
        self,
        x: npt.NDArray[Any],
        xx: npt.NDArray[Any],
        aa: npt.NDArray[Any],
        bb: npt.NDArray[Any],
        pp: npt.NDArray[Any],
        num_threads: int = 1,
    ) -> npt.NDArray[Any]: ...

class ChannelMix:
    def __init__(
        self, config: Any, parameters: Mapping[str, Any], output_scale: float, activations: str = "f32"
    ) -> None: ...
    @property
    def d_model(self) -> int: ...
    @property
    def d_ffn(self) -> int: ...
    def forward(self, x: npt.NDArray[Any], xx: npt.NDArray[Any], num_threads: int = 1) -> npt.NDArray[Any]: ...

class Layer:
    def __init__(
        self, config: Any, layer: int, parameters: Mapping[str, Any], output_scale: float, activations: str = "f32"
    ) -> None: ...
    @property
    def time_mix(self) -> TimeMix: ...
    @property
    def channel_mix(self) -> ChannelMix: ...
    @property
    def d_model(self) -> int: ...
    @property
    def state_size(self) -> int: ...

class Stack:
    def __init__(self, layers: Sequence[Any]) -> None: ...
    def forward(
        self,
        x: npt.NDArray[Any],
        states: npt.NDArray[Any],
        starts: npt.NDArray[np.intp],
        workspace: Workspace,
        num_threads: int,
        last_only: bool = False,
    ) -> None: ...
