"""Types of the compiled module rwkv_cy.kernels.sample."""

import numpy as np
import numpy.typing as npt

def nucleus_boundary(
    values: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    total: float,
    top_p: float,
    scratch: npt.NDArray[np.float32],
) -> tuple[float, int]: ...
def apply_mask(mask: npt.NDArray[np.uint32], logits: npt.NDArray[np.float32]) -> None: ...
