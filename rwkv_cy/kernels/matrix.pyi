"""Types of the compiled module rwkv_cy.kernels.matrix."""

from typing import Any

import numpy as np
import numpy.typing as npt

def pack(
    weights: npt.NDArray[np.float32], dtype: str, importance: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]: ...
def unpack(packed: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]: ...
def transposed(array: npt.NDArray[Any], first: int = 0, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]: ...
def make_matrix(parameter: Any, real: str, scale: float = 1.0, activations: str = "f32") -> Matrix: ...

class Workspace:
    @property
    def size(self) -> int: ...

class Matrix:
    def __init__(
        self,
        array: npt.NDArray[Any],
        dtype: str,
        scale: float = 1.0,
        shape: tuple[int, ...] | None = None,
        transposed: bool = False,
        activations: str = "f32",
        inputs: npt.NDArray[np.float32] | None = None,
    ) -> None: ...
    @property
    def array(self) -> npt.NDArray[Any]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def double_precision(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def transposed(self) -> bool: ...
    @property
    def scale(self) -> float: ...
    def matmul(
        self, x: npt.NDArray[Any], num_threads: int = 1, workspace: Workspace | None = None
    ) -> npt.NDArray[Any]: ...
