"""Types of the compiled module rwkv_cy.kernels.optimiser."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

def squared_norm(x: Array, num_threads: int) -> float: ...
def adamw(
    values: Array,
    gradient: Array,
    first: Array,
    second: Array,
    num_threads: int,
    *,
    scale: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    keep: float,
    step: float,
    root: float,
) -> None: ...
