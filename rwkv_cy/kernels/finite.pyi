"""Types of the compiled module rwkv_cy.kernels.finite."""

from typing import Any

import numpy.typing as npt

def all_finite(x: npt.NDArray[Any]) -> bool: ...
