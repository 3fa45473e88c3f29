"""Types of the compiled module rwkv_cy.kernels.sample."""

import numpy as np
import numpy.typing as npt

def nucleus(
    values: npt.NDArray[np.float32],
    highest: float,
    scale: float,
    top_p: float,
    keep_equals: bool,
    scratch: npt.NDArray[np.float32],
) -> npt.NDArray[np.int64]: ...
def apply_mask(mask: npt.NDArray[np.uint32], logits: npt.NDArray[np.float32]) -> None: ...
