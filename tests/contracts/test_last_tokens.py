"""What the last layer leaves out for earlier tokens changes no bit of the last token, in every architecture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from checkpoints import random_checkpoint
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel

#: Tokens of each sequence: about the least for which the short cut is taken, many, and several sequences of which some
#: are shorter than the tail that runs through the whole layer.
BATCHES = [[33], [34], [35], [200], [1, 70, 2, 3, 33], [2] * 40]


class Case:
    """A model of so many layers, and what goes through its encoder: embeddings, ids and states."""

    def __init__(self, config: Config, layers: int, lengths: list[int]) -> None:
        config = replace(config, num_layers=layers)
        rng = np.random.default_rng(layers)
        self.model = LanguageModel(config, random_checkpoint(config))
        self.starts = [0, *np.cumsum(lengths).tolist()]
        self.ids = rng.integers(config.vocab_size, size=self.starts[-1])
        self.xs = self.model.parameters["emb.weight"].array[self.ids]
        _, states = self.model.forward_batch([rng.integers(config.vocab_size, size=5) for _ in lengths])
        self.states = [state.data for state in states]

    def run(self, *, last_only: bool, threads: int = 1) -> tuple[np.ndarray, list[bytes]]:
        """Return the outputs after every token, and the bits of the states."""
        xs, after = self.xs.copy(), [np.full_like(state, np.nan) for state in self.states]
        self.model.encoder.run(xs, self.states, after, self.starts, threads, last_only=last_only, ids=self.ids)
        return xs, [state.tobytes() for state in after]


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_last_outputs_and_states_have_the_same_bits(isa: str, config: Config, layers: int, lengths: list[int]) -> None:
    case = Case(config, layers, lengths)
    last = [end - 1 for end in case.starts[1:]]
    expected, expected_states = case.run(last_only=False)
    for threads in (1, 3):
        xs, states = case.run(last_only=True, threads=threads)
        assert xs[last].tobytes() == expected[last].tobytes()
        assert states == expected_states


def test_the_last_layer_leaves_out_what_no_result_needs(config: Config) -> None:
    case = Case(config, 1, [80])
    xs, _ = case.run(last_only=True)
    assert xs[:-1].tobytes() == case.xs[:-1].tobytes()
    assert xs[-1].tobytes() != case.xs[-1].tobytes()
