"""Types of the compiled module rwkv_cy.kernels.head."""

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from rwkv_cy.kernels.matrix import Matrix, Workspace

class Head:
    def __init__(self, parameters: Mapping[str, Any], real: str, eps: float, activations: str = "f32") -> None: ...
    @property
    def matrix(self) -> Matrix: ...
    def logits(
        self,
        x: npt.NDArray[Any],
        out: npt.NDArray[Any],
        workspace: Workspace,
        num_threads: int = 1,
        check: bool = True,
    ) -> bool: ...
    def normalize(self, x: npt.NDArray[Any], out: npt.NDArray[Any], num_threads: int = 1) -> bool: ...
