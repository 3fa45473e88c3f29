"""Types of the compiled module rwkv_cy.kernels.embedding."""

from typing import Any

import numpy as np
import numpy.typing as npt

class Embedding:
    @property
    def vocab_size(self) -> int: ...
    @property
    def width(self) -> int: ...
    def __init__(self, parameter: Any, real: str) -> None: ...
    def rows(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]: ...
