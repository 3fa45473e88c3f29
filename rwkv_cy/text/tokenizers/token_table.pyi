"""Types of the compiled module rwkv_cy.text.tokenizers.token_table."""

from typing import Final

import numpy as np
import numpy.typing as npt

MAX_TOKEN_BYTES: int

class TokenTable:
    data: Final[bytes]
    twice: Final[tuple[int, int] | None]
    def __init__(self, lengths: npt.NDArray[np.uint16], data: bytes) -> None: ...
    def __len__(self) -> int: ...
    def encode(self, text: bytes) -> tuple[list[int], int]: ...
    def token(self, number: int) -> bytes: ...
    def has_byte(self, byte: int) -> bool: ...
