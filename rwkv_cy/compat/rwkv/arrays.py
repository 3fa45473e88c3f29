"""Logits and states as scripts expect them: tensors if the script imports torch, else arrays with their methods."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Tensor", "as_array", "as_tensor", "float32_type"]


class Tensor(np.ndarray):
    """A NumPy array with the methods of torch's tensors that scripts call on logits and states."""

    def cpu(self) -> Tensor:
        """Return the array itself."""
        return self

    def cuda(self, *_: Any, **__: Any) -> Tensor:
        """Return the array itself: there is only the CPU."""
        return self

    def detach(self) -> Tensor:
        """Return the array itself."""
        return self

    def requires_grad_(self, *_: Any) -> Tensor:
        """Return the array itself."""
        return self

    def numpy(self) -> npt.NDArray[Any]:
        """Return a view as a plain NumPy array."""
        return self.view(np.ndarray)

    def clone(self) -> Tensor:
        """Return a copy."""
        return self.copy()

    def contiguous(self) -> Tensor:
        """Return the array, copied if its elements are not in order in memory."""
        return np.ascontiguousarray(self).view(Tensor)

    def float(self) -> Tensor:
        """Return the numbers as float32."""
        return self.astype(np.float32, copy=False).view(Tensor)

    def to(self, *targets: Any, dtype: Any = None, **_: Any) -> Tensor:
        """Return the numbers as another NumPy type; devices are ignored."""
        types = [target for target in (*targets, dtype) if isinstance(target, (type, np.dtype))]
        return self.astype(types[-1], copy=False).view(Tensor) if types else self


def _torch() -> Any:
    """Return torch if the process has imported it, else None."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "from_numpy") else None


def as_tensor(array: npt.NDArray[Any]) -> Any:
    """Return an array that shares the memory of `array`: a torch tensor if torch is imported, else a Tensor."""
    torch = _torch()
    return array.view(Tensor) if torch is None else torch.from_numpy(array)


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return the numbers of a tensor or of anything that NumPy takes, as a plain array."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    try:
        return np.asarray(value)
    except TypeError:  # NumPy does not have bfloat16
        return np.asarray(value.float())


def float32_type() -> Any:
    """Return what a script names the type of the arrays with: torch's float32 if torch is imported, else NumPy's."""
    torch = _torch()
    return np.float32 if torch is None else torch.float32
