"""Types of the compiled module rwkv_cy.kernels.trie."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

MAX_IDS: int
MAX_BYTES: int

class Trie:
    def __init__(self, offsets: npt.NDArray[np.int64], data: bytes) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def encode(self, text: str | bytes) -> list[int]: ...
    def decode(self, tokens: Iterable[int]) -> bytes: ...
