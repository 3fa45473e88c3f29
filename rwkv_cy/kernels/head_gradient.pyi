"""Types of the compiled module rwkv_cy.kernels.head_gradient."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.matrix import Matrix, Workspace

LOGITS_BYTES: int

class HeadGradient:
    names: tuple[str, str, str]
    def __init__(self, matrix: Matrix, parameters: Mapping[str, Any], real: str, eps: float) -> None: ...
    @property
    def chunk_tokens(self) -> int: ...
    def logits(self, x: npt.NDArray[Any], out: npt.NDArray[Any], workspace: Workspace, num_threads: int) -> None: ...
    def backward(
        self,
        x: npt.NDArray[Any],
        d_logits: npt.NDArray[Any],
        dx: npt.NDArray[Any],
        gradients: Sequence[npt.NDArray[Any] | None],
        workspace: Workspace,
        num_threads: int,
    ) -> None: ...
    def cross_entropy(
        self,
        x: npt.NDArray[Any],
        targets: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float64],
        l2_wrap: float,
        losses: npt.NDArray[np.float64],
        dx: npt.NDArray[Any],
        gradients: Sequence[npt.NDArray[Any] | None],
        workspace: Workspace,
        num_threads: int,
    ) -> None: ...
