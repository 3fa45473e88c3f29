"""Types of the compiled module rwkv_cy.kernels.stream."""

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

class Stream:
    def __init__(self, arrays: Iterable[npt.NDArray[Any]]) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def read(self, num_threads: int = 1) -> int: ...
