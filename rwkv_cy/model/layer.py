"""Layer, TimeMix and ChannelMix: one layer of the encoder, and its two halves on their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, SpecError, StateError
from rwkv_cy.kernels import stack as kernels
from rwkv_cy.model.state import LayerState
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.tensors.tensor import Parameter, as_parameter

__all__ = ["ChannelMix", "Layer", "TimeMix", "activations"]


def activations(xs: npt.ArrayLike, config: Config, ndim: int, what: str) -> npt.NDArray[Any]:
    """Return `xs` as contiguous activations of the config's type, with the width checked.

    Raises
    ------
    ConfigError
        If `xs` has another number of dimensions or another width.
    """
    array = np.asarray(xs)
    dtype = np.float64 if config.compute_dtype == "f64" else np.float32
    shape = "(d_model,)" if ndim == 1 else "(time, d_model)"
    if array.ndim != ndim or array.shape[-1] != config.d_model or array.dtype.kind not in "fiu":
        raise ConfigError(
            f"{what}: expected numbers of shape {shape} with d_model {config.d_model}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, dtype=dtype)


class _Mix:
    """What both mixes of a layer share: input and state are checked, the compiled mix does the rest."""

    def __init__(self, config: Config, kernel: Any) -> None:
        self._config = config
        self._kernel = kernel

    @property
    def shared_width(self) -> int:
        """Numbers a token that the layers share through this mix; 0 where they share nothing."""
        return int(self._kernel.shared_width)

    def forward(
        self,
        xs: npt.ArrayLike,
        state: LayerState,
        *,
        num_threads: int | None = None,
        shared: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Return the mix of `xs`; the fields of `state` that belong to the mix are updated in place.

        Parameters
        ----------
        xs : array_like
            Normed input, shape (time, d_model).
        state : LayerState
            Of this layer.
        num_threads : int, optional
            Threads to use.
        shared : numpy.ndarray, optional
            What the first layer's time mix makes for the others, shape (time, shared_width), of the model's type: the
            first layer writes it, the others read it. Zeros where it is not given.

        Returns
        -------
        numpy.ndarray
            Shape (time, d_model), float32 or float64 as the model.

        Raises
        ------
        ConfigError
            If `xs` has another shape.
        StateError
            If `state` is of another model.
        """
        x = activations(xs, self._config, 2, f"{type(self).__name__}.forward")
        wanted = np.dtype(np.float64 if self._config.compute_dtype == "f64" else np.float32)
        if state.data.dtype != wanted or state.data.shape != (self._kernel.state_size,):
            raise StateError(
                f"LayerState: expected {self._kernel.state_size} numbers of {wanted}, got {state.data.size} of "
                f"{state.data.dtype} ({', '.join(state)}); use a state of this model"
            )
        result: npt.NDArray[Any] = self._kernel.forward(x, state.data, resolve_num_threads(num_threads), shared)
        return result


class TimeMix(_Mix):
    """Time mix of one layer: from normed vectors to what is added to the residual stream.

    Obtained as ``layer.time_mix``; it updates the ``att_`` fields of a state.
    """


class ChannelMix(_Mix):
    """Channel mix of one layer: from normed vectors to what is added to the residual stream.

    Obtained as ``layer.channel_mix``; it updates ``ffn_xx`` of a state.
    """


class Layer:
    """One layer: x += TimeMix(ln1(x)); x += ChannelMix(ln2(x)); layer 0 norms its input with ln0 first.

    Parameters
    ----------
    config : Config
        Of the whole model.
    index : int
        Which layer this is, from 0.
    parameters : mapping of str to Parameter or numpy.ndarray
        By their names within the layer, ``"att.key.weight"``; others are ignored.
    divide_weights : bool, default False
        Divide the output and value matrices by 2^(index // config.rescale_layer).
    activations : {"f32", "bf16"}, default "f32"
        What matrices in bf16 are multiplied with, as for :func:`rwkv_cy.load`.

    Raises
    ------
    SpecError
        If parameters are missing or of the wrong shape: all are named at once.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        parameters: Mapping[str, Parameter | npt.NDArray[Any]],
        *,
        divide_weights: bool = False,
        activations: str = "f32",
    ) -> None:
        architecture = architecture_of(config)
        config = architecture.complete(config)
        specs = architecture.layer_parameters(config, index)
        own = {spec.name: as_parameter(parameters[spec.name]) for spec in specs if spec.name in parameters}
        problems = [
            f"missing {spec.name} {spec.shape}"
            if spec.name not in own
            else f"{spec.name}: expected {spec.shape}, got {own[spec.name].shape}"
            for spec in specs
            if (not spec.optional if spec.name not in own else own[spec.name].shape != spec.shape)
        ]
        if problems:
            raise SpecError(f"layer {index}: {'; '.join(problems)}")
        self.config = config
        self.index = index
        halvings = index // config.rescale_layer if divide_weights and config.rescale_layer else 0
        mixes = [
            make(config, index, own, 0.5**halvings, activations)
            for make in (architecture.time_mix, architecture.channel_mix)
        ]
        self.kernel = kernels.Layer(config, index, own, *mixes)

    @property
    def time_mix(self) -> TimeMix:
        """The time mix of this layer, on its own."""
        return TimeMix(self.config, self.kernel.time_mix)

    @property
    def channel_mix(self) -> ChannelMix:
        """The channel mix of this layer, on its own."""
        return ChannelMix(self.config, self.kernel.channel_mix)
