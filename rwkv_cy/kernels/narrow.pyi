"""Types of the compiled module rwkv_cy.kernels.narrow."""

from typing import Any

import numpy as np
import numpy.typing as npt

def narrow_f32(
    numbers: npt.NDArray[np.float32], dtype: str
) -> tuple[npt.NDArray[Any], int, int, int, float, float, float]: ...
