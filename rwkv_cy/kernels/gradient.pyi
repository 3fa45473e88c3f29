"""Types of the compiled module rwkv_cy.kernels.gradient."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.matrix import Matrix, Workspace
from rwkv_cy.kernels.stack import Layer, Mix

class Weight:
    def __init__(self, matrix: Matrix, index: int, in_out: bool = False, offset: int = 0) -> None: ...
    @property
    def matrix(self) -> Matrix: ...

class MixGradient:
    def __init__(self, mix: Mix) -> None: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def quantized(self) -> list[str]: ...

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
    ) -> None: ...
