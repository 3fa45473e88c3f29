"""Types of the compiled module rwkv_cy.kernels.weight."""

from rwkv_cy.kernels.matrix import Matrix

class Weight:
    def __init__(self, matrix: Matrix, index: int, in_out: bool = False, offset: int = 0) -> None: ...
    @property
    def matrix(self) -> Matrix: ...
