"""Memory of a forward and a backward pass beyond the weights: counted at a small shape, computed for a real one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from rwkv7_shapes import RELEASED_01B
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.kernels.head_gradient import LOGITS_BYTES
from rwkv_cy.model.gradients import MEMORY
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.model.tape import SEGMENT_TOKENS


def parts(config: Config, tokens: int, memory: int) -> dict[str, int]:
    """Return bounds of what a pass with all gradients takes in float32, in bytes."""
    config = architecture_of(config).complete(config)
    together = min(tokens, SEGMENT_TOKENS)
    return {
        "gradients": 4 * sum(int(np.prod(s.shape)) for s in architecture_of(config).parameters(config)),
        "activations": memory,
        "logits": min(LOGITS_BYTES, 4 * tokens * config.vocab_size),
        # Vectors of each token: scratch of a layer, inputs, outputs and their gradients.
        "scratch": 4 * together * (36 * config.d_model + 3 * config.d_ffn),
        # Parts of products, of up to a million numbers, and packed operands.
        "products": 4 * min(3 << 20, 3 * config.d_model * max(config.d_ffn, config.vocab_size)),
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_of_a_pass_are_bounded(threads: int) -> None:
    config = Config(128, 4, vocab_size=700, architecture="rwkv7", head_size=64)
    model = LanguageModel.new(config, 0)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 700, 64) for _ in range(4)]
    recorded = model.record(sequences, logits=False)[2].activation_bytes(256)
    for memory in (recorded, recorded // 4):
        model = LanguageModel(model.config, model.parameters)
        tracemalloc.start()
        _, _, tape = model.record(sequences, logits=False, memory=memory, num_threads=threads)
        tape.cross_entropy(sequences, num_threads=threads)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        bound = sum(parts(config, 256, memory).values())
        assert 0.5 * bound < peak < bound


def test_a_model_of_a_tenth_of_a_billion_takes_one_and_a_half_gigabytes() -> None:
    needed = parts(RELEASED_01B, 4 * 256, MEMORY)
    assert sum(needed.values()) < 1.5e9, needed
