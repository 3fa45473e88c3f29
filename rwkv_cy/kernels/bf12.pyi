"""Types of the compiled module rwkv_cy.kernels.bf12."""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]

TABLE_SIZE: int
PACKED_ROWS: int

def group_nbytes(columns: int) -> int: ...
def count_exponents(words: Words, counts: Counts) -> None: ...
def pack_rows(words: Words, table: Bytes) -> tuple[Bytes, Words, Counts]: ...
def unpack_rows(chunks: Bytes, table: Bytes, shape: tuple[int, ...]) -> Words: ...
