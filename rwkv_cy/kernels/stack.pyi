"""Types of the compiled module rwkv_cy.kernels.stack."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.kernels.matrix import Workspace

# A config and parameters come from layers above, which this one does not import: they are Any here.

def real_dtype(config: Any) -> np.dtype[Any]: ...

class Mix:
    @property
    def d_model(self) -> int: ...
    @property
    def state_size(self) -> int: ...
    @property
    def shared_width(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def uses_embedding(self) -> bool: ...
    def forward(
        self,
        x: npt.NDArray[Any],
        state: npt.NDArray[Any],
        num_threads: int = 1,
        shared: npt.NDArray[Any] | None = None,
        ids: npt.NDArray[np.int64] | None = None,
        embedded: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]: ...

class Layer:
    def __init__(
        self, config: Any, index: int, parameters: Mapping[str, Any], time_mix: Mix, channel_mix: Mix
    ) -> None: ...
    @property
    def time_mix(self) -> Mix: ...
    @property
    def channel_mix(self) -> Mix: ...
    @property
    def d_model(self) -> int: ...
    @property
    def state_size(self) -> int: ...

class Stack:
    def __init__(self, layers: Sequence[Layer]) -> None: ...
    @property
    def vocab_size(self) -> int: ...
    def forward(
        self,
        x: npt.NDArray[Any],
        reads: Sequence[npt.NDArray[Any]],
        writes: Sequence[npt.NDArray[Any]],
        starts: npt.NDArray[np.intp],
        workspace: Workspace,
        num_threads: int,
        last_only: bool = False,
        ids: npt.NDArray[np.int64] | None = None,
    ) -> None: ...
