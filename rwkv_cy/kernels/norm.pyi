"""Types of the compiled module rwkv_cy.kernels.norm."""

from typing import Any

import numpy.typing as npt

def layer_norm(
    x: npt.NDArray[Any], weight: npt.NDArray[Any], bias: npt.NDArray[Any], eps: float, num_threads: int = 1
) -> npt.NDArray[Any]: ...
