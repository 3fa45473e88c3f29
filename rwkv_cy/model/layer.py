"""Layer, TimeMix and ChannelMix: one layer of the encoder, and its two halves separately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.dtypes import array_dtype
from rwkv_cy.errors import ConfigError, SpecError, StateError
from rwkv_cy.kernels import stack as kernels
from rwkv_cy.model.state import LayerState
from rwkv_cy.runtime import resolve_num_threads
from rwkv_cy.tensors.tensor import Parameter, as_parameter

__all__ = ["ChannelMix", "Layer", "TimeMix", "activations"]


def activations(xs: npt.ArrayLike, config: Config, ndim: int, what: str) -> npt.NDArray[Any]:
    """Return `xs` as contiguous activations of the config's type, after checking the width.

    Raises
    ------
    ConfigError
        If `xs` has another number of dimensions or another width.
    """
    array = np.asarray(xs)
    dtype = array_dtype(config.compute_dtype)
    shape = "(d_model,)" if ndim == 1 else "(time, d_model)"
    if array.ndim != ndim or array.shape[-1] != config.d_model or array.dtype.kind not in "fiu":
        raise ConfigError(
            f"{what}: expected numbers of shape {shape} with d_model {config.d_model}, "
            f"got {array.dtype} of shape {array.shape}"
        )
    return np.ascontiguousarray(array, dtype=dtype)


class _Mix:
    """Base of both mixes of a layer: checks input and state, and runs the compiled mix."""

    def __init__(self, config: Config, kernel: Any) -> None:
        self._config = config
        self._kernel = kernel

    @property
    def shared_width(self) -> int:
        """Elements per token that layers share through this mix; 0 if they share nothing."""
        return int(self._kernel.shared_width)

    def forward(
        self,
        xs: npt.ArrayLike,
        state: LayerState,
        *,
        num_threads: int | None = None,
        shared: npt.NDArray[Any] | None = None,
        tokens: npt.NDArray[np.int64] | None = None,
        embedded: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """Return the mix of `xs`, and update its fields of `state` in place.

        Parameters
        ----------
        xs : array_like
            Normalized input, shape (time, d_model).
        state : LayerState
            State of this layer.
        num_threads : int, optional
            Threads to use.
        shared : numpy.ndarray, optional
            Activations that layers share, shape (time, shared_width), of the model's type: the first layer's time mix
            writes them, the other layers read them. Zeros by default.
        tokens : numpy.ndarray, optional
            The tokens that the vectors stand for, int64, for a mix that looks them up in a table.
        embedded : numpy.ndarray, optional
            Their embeddings after ln0, shape (time, d_model), of the model's type, for a mix that uses them.

        Returns
        -------
        numpy.ndarray
            Shape (time, d_model), float32 or float64 like the model.

        Raises
        ------
        ConfigError
            If `xs` has another shape.
        StateError
            If `state` does not fit the model.
        """
        x = activations(xs, self._config, 2, f"{type(self).__name__}.forward")
        dtype = array_dtype(self._config.compute_dtype)
        if state.data.dtype != dtype or state.data.shape != (self._kernel.state_size,):
            raise StateError(
                f"LayerState: expected {self._kernel.state_size} numbers of {dtype}, got {state.data.size} of "
                f"{state.data.dtype} ({', '.join(state)}); use a state of this model"
            )
        result: npt.NDArray[Any] = self._kernel.forward(
            x, state.data, resolve_num_threads(num_threads), shared, tokens, embedded
        )
        return result


class TimeMix(_Mix):
    """Time mix of one layer: maps normalized vectors to an update of the residual stream.

    Available as ``layer.time_mix``; it updates the ``att_`` fields of a state.
    """


class ChannelMix(_Mix):
    """Channel mix of one layer: maps normalized vectors to an update of the residual stream.

    Available as ``layer.channel_mix``; it updates ``ffn_xx`` of a state.
    """


class Layer:
    """One layer: x += TimeMix(ln1(x)); x += ChannelMix(ln2(x)); layer 0 first normalizes its input with ln0.

    Parameters
    ----------
    config : Config
        Config of the whole model.
    index : int
        Index of the layer, from 0.
    parameters : mapping of str to Parameter or numpy.ndarray
        By their names within the layer, ``"att.key.weight"``; others are ignored.
    divide_weights : bool, default False
        Divide the output and value matrices by 2^(index // config.rescale_layer).
    activations : {"f32", "bf16"}, default "f32"
        Precision of the activations that bf16 matrices are multiplied with, as for :func:`rwkv_cy.load`.

    Raises
    ------
    SpecError
        If parameters are missing or of the wrong shape; the message names all of them.
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
        specs = architecture.parameters_of_layer(config, index)
        own = {spec.name: as_parameter(parameters[spec.name], spec.name) for spec in specs if spec.name in parameters}
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
        """The time mix of this layer."""
        return TimeMix(self.config, self.kernel.time_mix)

    @property
    def channel_mix(self) -> ChannelMix:
        """The channel mix of this layer."""
        return ChannelMix(self.config, self.kernel.channel_mix)
