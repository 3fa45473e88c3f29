"""Where NaN and Inf come from: which token, which layer, or what follows the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.dtypes import widen
from rwkv_cy.kernels.embedding import Embedding
from rwkv_cy.model.encoder import Model
from rwkv_cy.model.state import LayerState
from rwkv_cy.tensors.tensor import Parameter

__all__ = ["HIDDEN", "LOGITS", "Origin"]

#: What follows the layers, and what is computed of it.
LOGITS, HIDDEN = "logits, ln_out or head", "hidden states, ln_out"


class Origin:
    """Describes where NaN or Inf first appeared.

    Parameters
    ----------
    config : Config
    parameters : mapping of str to Parameter
        Of the model, by canonical name.
    embedding : Embedding
    encoder : Model
    """

    def __init__(
        self, config: Config, parameters: Mapping[str, Parameter], embedding: Embedding, encoder: Model
    ) -> None:
        self._architecture = architecture_of(config)
        self._config = config
        self._parameters = parameters
        self._embedding = embedding
        self._encoder = encoder

    def describe(
        self,
        ids: npt.NDArray[np.int64],
        before: npt.NDArray[Any],
        after: npt.NDArray[Any],
        num_threads: int,
        outputs: str,
    ) -> str:
        """Return in which layer it began and, if possible, at which token; in the `outputs` if in no layer.

        The tokens are run again one at a time. After an in-place call the earlier state is lost, so that only the
        state after the tokens is examined: the last input of a time mix is the output of the previous layer.
        """
        after_the_layers = f"expected finite {outputs} gave NaN or infinity; {self._remedy}"
        if before is after:
            found = self._layer(after, None) or after_the_layers
            return f"{found}, unless the state that was given was not finite already"
        if not np.isfinite(before).all():
            return "expected a finite state, got NaN or infinity in it; start from another state"
        read, state = before, np.empty_like(before)
        for position, token in enumerate(ids):
            x = self._embedding.rows(ids[position : position + 1])
            if not np.isfinite(x).all():
                return f"token {token} at {position}: its row of emb.weight is not finite; the model file is damaged"
            self._encoder.run(x, [read], [state], [0, 1], num_threads, ids=ids[position : position + 1])
            read = state
            problem = self._row(token) or self._layer(state, x)
            if problem is not None:
                return f"token {token} at {position}: {problem}"
        return after_the_layers

    @property
    def _remedy(self) -> str:
        """What to do about NaN and infinity: float16 ends at 65504, so that larger weights became infinite."""
        narrow = any(parameter.dtype == "f16" for parameter in self._parameters.values())
        return "verify the model file" + (", or load the original in a type with more range than f16" if narrow else "")

    def _row(self, token: int) -> str | None:
        """Describe the first table whose row of the token has NaN or Inf."""
        for spec in self._architecture.parameters(self._config):
            if spec.kind == "table":
                table = self._parameters[spec.name]
                if not np.isfinite(widen(table.array[token], table.dtype, "f64")).all():
                    return f"its row of {spec.name} is not finite; the model file is damaged"
        return None

    def _layer(self, state: npt.NDArray[Any], x: npt.NDArray[Any] | None) -> str | None:
        """Describe the first layer that produced NaN or Inf, from the states and `x`, the output of the last layer."""
        for index, row in enumerate(state):
            if np.isfinite(row).all():
                continue
            if np.isfinite(LayerState(self._encoder.state_fields, row)[self._architecture.previous_input]).all():
                return f"expected finite numbers, layer {index} gave NaN or infinity; {self._remedy}"
            where = f"layer {index - 1}" if index else "emb.weight or the LayerNorms of layer 0"
            return f"expected finite numbers, {where} gave NaN or infinity; {self._remedy}"
        if x is not None and not np.isfinite(x).all():
            return f"expected finite numbers, layer {len(state) - 1} gave NaN or infinity; {self._remedy}"
        return None
