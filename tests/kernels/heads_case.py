"""The mixes of one layer of a version with a matrix-valued state, and its reference implementation, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from checkpoints import random_checkpoint
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.model.state import LayerState
from rwkv_cy.tensors.tensor import Parameter

Array = np.ndarray
ReferenceMix = Callable[..., Array]


class HeadsCase:
    """The mixes of one layer, no parameter at its neutral value, and a state that some tokens have gone through.

    Parameters
    ----------
    config : Config
        Dimensions.
    real : {"f32", "f64"}
        Type of the activations.
    time_mix, channel_mix : callable
        The reference implementations.
    layer : int, default 1
        Index of the layer.
    """

    def __init__(
        self, config: Config, real: str, time_mix: ReferenceMix, channel_mix: ReferenceMix, layer: int = 1
    ) -> None:
        self.rng = np.random.default_rng(7)
        self.config = replace(config, compute_dtype=real)
        self.architecture = architecture_of(config)
        self.layer = layer
        self.dtype = np.dtype(np.float64 if real == "f64" else np.float32)
        self.tolerance = 1e-12 if real == "f64" else 1e-5
        self._references = partial(time_mix, eps=config.group_norm_eps), channel_mix
        prefix = f"blocks.{layer}."
        self.weights = {
            name.removeprefix(prefix): array
            for name, array in random_checkpoint(self.config, 7).items()
            if name.startswith(prefix)
        }

    def mixes(self, scale: float = 1.0) -> tuple[Any, Any]:
        """Return the compiled time mix and channel mix of the weights as they are now."""
        make = self.architecture.time_mix, self.architecture.channel_mix
        one, other = (function(self.config, self.layer, self.parameters(), scale, "f32") for function in make)
        return one, other

    def parameters(self) -> dict[str, Parameter]:
        return {name: Parameter(array, self.config.compute_dtype) for name, array in self.weights.items()}

    def xs(self, tokens: int) -> Array:
        return self.rng.standard_normal((tokens, self.config.d_model)).astype(self.dtype)

    def state(self) -> LayerState:
        fields = self.architecture.state_fields(self.config)
        row = self.rng.standard_normal(sum(field.size for field in fields)).astype(self.dtype)
        return LayerState(fields, row)

    def reference(self, mix: int, xs: Array, state: LayerState) -> tuple[Array, dict[str, Array]]:
        """Return what the reference makes of the same inputs, and its state; `mix` is 0 for the time mix, else 1."""
        wide = {name: array.astype(np.float64) for name, array in self.weights.items()}
        after = {name: array.astype(np.float64) for name, array in state.items()}
        return self._references[mix](xs.astype(np.float64), after, wide, {}), after

    def assert_close(self, actual: Array, expected: Array) -> None:
        assert np.isfinite(actual).all()
        assert np.abs(actual - expected).max() <= self.tolerance * max(1.0, np.abs(expected).max())

    def assert_mix(self, mix: int, tokens: int) -> None:
        """Hold one of the mixes against the reference, with its state."""
        xs, state = self.xs(tokens), self.state()
        expected, after = self.reference(mix, xs, state)
        self.assert_close(self.mixes(0.5)[mix].forward(xs, state.data, 2), 0.5 * expected)
        for name, array in state.items():
            self.assert_close(array, after[name])

    def assert_steps(self, tokens: int = 35) -> None:
        """Hold a sequence against its tokens one by one, to the last bit, for several numbers of threads."""
        mix, xs, state = self.mixes()[0], self.xs(tokens), self.state()
        single_state = state.data.copy()
        single = [mix.forward(xs[t : t + 1], single_state, 1) for t in range(tokens)]
        # More threads than heads share a head by its rows.
        for threads in (1, 2, 7):
            after = state.data.copy()
            y = mix.forward(xs, after, threads)
            assert y.tobytes() == np.concatenate(single).tobytes()
            assert after.tobytes() == single_state.tobytes()
