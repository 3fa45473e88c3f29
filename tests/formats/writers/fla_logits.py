"""Logits of a folder by the classes and kernels of flash-linear-attention, run on a CPU by Triton's interpreter.

``python fla_logits.py FOLDER TOKENS.npy LOGITS.npy`` with :data:`ENVIRONMENT`, in a process of its own: it is read as
the packages are imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ENVIRONMENT = {"TRITON_INTERPRET": "1", "FLA_USE_COMPILE": "0"}
#: Tokens at once, after which the state goes on in the package's cache. Its kernels for 64 and more call methods of
#: tensors on loop counters, which are plain integers in the interpreter.
PIECE = 30


class NotMeasured:
    """Stands for a GPU, of which the tuner of the kernels asks the time of each variant."""

    def get_benchmarker(self) -> Callable[..., list[float]]:
        """Return a function that finds all variants equally fast, so that the first is used."""
        return lambda call, quantiles: [1.0] * len(quantiles)


def main(folder: Path, tokens: Path, result: Path) -> None:
    """Write the logits after each token, (tokens, vocabulary)."""
    import fla.models  # noqa: F401 - registers its classes
    import torch
    from transformers import AutoModelForCausalLM
    from triton.runtime import driver

    driver.set_active(NotMeasured())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pieces, cache = [], None
    with torch.no_grad():
        for piece in torch.from_numpy(np.load(tokens)).split(PIECE):
            output = model(piece[None], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            pieces.append(output.logits[0].numpy())
    np.save(result, np.concatenate(pieces))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
