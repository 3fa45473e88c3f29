"""Types of the compiled module rwkv_cy.kernels.gradient."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.matrix import Workspace
from rwkv_cy.kernels.stack import Layer, Mix

class MixGradient:
    def __init__(self, mix: Mix, xx: int, lerped: bool) -> None: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def quantized(self) -> list[str]: ...
    def adapt(self, name: str, a: npt.NDArray[Any], b: npt.NDArray[Any], scale: float) -> tuple[str, str]: ...

class LayerGradient:
    def __init__(self, layer: Layer, time_mix: MixGradient, channel_mix: MixGradient) -> None: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def quantized(self) -> list[str]: ...

class StackGradient:
    def __init__(self, layers: Sequence[LayerGradient]) -> None: ...
    @property
    def names(self) -> tuple[tuple[str, ...], ...]: ...
    @property
    def vocab_size(self) -> int: ...
    def saved(self, starts: npt.NDArray[np.intp], num_threads: int = 1) -> int: ...
    def record(
        self,
        x: npt.NDArray[Any],
        reads: Sequence[npt.NDArray[Any]],
        writes: Sequence[npt.NDArray[Any]],
        starts: npt.NDArray[np.intp],
        workspace: Workspace,
        num_threads: int,
        saved: Workspace | None = None,
        ids: npt.NDArray[np.int64] | None = None,
    ) -> None: ...
    def backward(
        self,
        dx: npt.NDArray[Any],
        reads: Sequence[npt.NDArray[Any]],
        d_states: Sequence[npt.NDArray[Any]],
        starts: npt.NDArray[np.intp],
        workspace: Workspace,
        num_threads: int,
        saved: Workspace,
        gradients: Sequence[Sequence[npt.NDArray[Any] | None]],
        ids: npt.NDArray[np.int64] | None = None,
    ) -> None: ...
