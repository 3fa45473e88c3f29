"""Reference implementations in float64 NumPy: as short as the equations, used by tests and tools only."""

from rwkv_cy.kernels.reference.common import layer_norm, matmul, sigmoid

__all__ = ["layer_norm", "matmul", "sigmoid"]
