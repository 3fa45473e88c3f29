"""Types of the compiled module rwkv_cy.kernels.sample."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

class NucleusSearch:
    def find(
        self, rows: Sequence[tuple[npt.NDArray[np.float32], float, float, bool]], num_threads: int = 1
    ) -> list[tuple[npt.NDArray[np.int64], float]]: ...

def all_finite(values: npt.NDArray[np.float32], copy: npt.NDArray[np.float32] | None = None) -> bool: ...
def apply_mask(mask: npt.NDArray[np.uint32], logits: npt.NDArray[np.float32]) -> None: ...
