"""The authors' `rwkv` package as an oracle for RWKV-5, 6, 7 and 7a, on torch in float32."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]
#: A layer's state: arrays by our names for them.
LayerState = Mapping[str, Array]


def _module() -> ModuleType:
    """Return a copy of rwkv.model of its own that runs the version that the environment names as it is imported."""
    pytest.importorskip("torch", reason="needs torch==2.13.0")
    pytest.importorskip("rwkv", reason="needs the rwkv package")
    spec = importlib.util.find_spec("rwkv.model")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_7(parameters: Mapping[str, Array]) -> bool:
    return "blocks.0.att.r_k" in parameters


def _environment(parameters: Mapping[str, Array]) -> dict[str, str]:
    """Return the variables that choose version 7, or 7a for parameters that have its table; others it tells itself."""
    deep_embed = any(".ffn.s_emb." in name for name in parameters)
    return {
        "RWKV_V7_ON": "1" if _is_7(parameters) else "0",
        "RWKV_DE_VERSION": "1" if deep_embed else "0",
        "RWKV_JIT_ON": "0",
        "RWKV_CUDA_ON": "0",
    }


class PackageModel:
    """RWKV-5, 6, 7 or 7a of these float32 parameters, run by the package.

    Parameters
    ----------
    folder : Path
        For the checkpoint that the package reads.
    parameters : mapping of str to numpy.ndarray
        By canonical name, float32.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Array]) -> None:
        with mock.patch.dict(os.environ, _environment(parameters)), contextlib.redirect_stdout(io.StringIO()):
            module = _module()
            self._torch = module.torch
            # Its products here are small: threads would only wait for each other.
            self._torch.set_num_threads(1)
            # It tells version 5.2 by a decay that comes after a normalisation, even in a model of one layer.
            names = sorted(parameters, key=lambda name: ".time_" in name)
            tensors = {name: self._torch.from_numpy(parameters[name]) for name in names}
            self._torch.save(tensors, folder / "model.pth")
            self._model = module.RWKV(model=str(folder / "model"), strategy="cpu fp32")
        self._parameters = parameters

    def initial_state(self) -> list[Any]:
        """Return the package's state before the first token, with the time_state that version 7 does not read."""
        state: list[Any] = self._model.generate_zero_state()
        for i in range(len(state) // 3):
            tuned = self._parameters.get(f"blocks.{i}.att.time_state")
            if tuned is not None:
                state[3 * i + 1] = self._torch.from_numpy(tuned.copy())
        return state

    def forward(self, tokens: Sequence[int]) -> tuple[Array, list[LayerState]]:
        """Return the logits (time, vocab_size) after each token from the beginning, and the layers' states."""
        is_7 = _is_7(self._parameters)
        initial = self.initial_state() if is_7 else None
        with mock.patch.dict(os.environ, _environment(self._parameters)):
            logits, state = self._model.forward(list(tokens), initial, full_output=True)
        layers = [
            {
                "att_xx": state[i].numpy(),
                # Earlier versions hold it as [head, key, value].
                "att_kv": (state[i + 1] if is_7 else state[i + 1].transpose(1, 2)).numpy(),
                "ffn_xx": state[i + 2].numpy(),
            }
            for i in range(0, len(state), 3)
        ]
        return logits.numpy(), layers


def assert_close(actual: Array, expected: Array, tolerance: float = 2e-5) -> None:
    """Hold the largest difference against the largest expected number."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()
