"""Logits processors: their input, the changes they may make, and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.generate import generate
from rwkv_cy.text.sampling import Sampler, SamplingOptions
from rwkv_cy.text.tokenizers import ByteTokenizer
from text.samples import CountingModel

Logits = npt.NDArray[np.float32]
GREEDY = SamplingOptions(temperature=0)
LOGITS = np.array([0.0, 1.0, 2.0, 3.0], np.float32)


def only(*allowed: int) -> Any:
    """Return a processor that forbids, in place, all tokens but these."""

    def mask(tokens: Sequence[int], logits: Logits) -> None:
        keep = logits[list(allowed)].copy()
        logits[:] = -np.inf
        logits[list(allowed)] = keep

    return mask


def sample(*processors: Any, options: SamplingOptions = GREEDY, tokens: Sequence[int] = ()) -> int:
    return Sampler(options, 4, 0, processors).sample(LOGITS, tokens)


def test_in_place_and_returned() -> None:
    assert sample(only(0, 1)) == 1
    assert sample(lambda tokens, logits: -logits) == 0
    assert sample(lambda tokens, logits: [9.0, 0, 0, 0]) == 0
    assert sample(lambda tokens, logits: 9.0 - logits.astype(np.float64)) == 0


def test_in_order() -> None:
    double_first = lambda tokens, logits: logits * np.array([4, 1, 1, 1])  # noqa: E731
    add_one = lambda tokens, logits: logits + np.array([1, 0, 0, 0])  # noqa: E731
    assert sample(add_one, double_first) == 0  # (0 + 1) * 4
    assert sample(double_first, add_one) == 3  # 0 * 4 + 1


def test_what_they_see() -> None:
    seen: list[tuple[list[int], list[float]]] = []

    def look(tokens: Sequence[int], logits: Logits) -> None:
        seen.append((list(tokens), logits.tolist()))

    options = SamplingOptions(temperature=0, logit_bias={0: 7.0}, banned_tokens=[3], presence_penalty=2.0)
    sampler = Sampler(options, 4, 0, [look])
    sampler.observe(2)
    assert sampler.sample(LOGITS, [2]) == 0
    assert seen == [([2], [7.0, 1.0, 0.0, -np.inf])]
    assert LOGITS.tolist() == [0, 1, 2, 3]


def test_a_banned_token_stays_banned() -> None:
    options = SamplingOptions(temperature=0, banned_tokens=[3])
    assert sample(lambda tokens, logits: [0.0, 0, 1, 9], options=options) == 2


def test_the_probabilities_are_those_of_the_allowed_tokens() -> None:
    found = Sampler(SamplingOptions(top_p=1.0), 4, 0, [only(1, 3)]).candidates(LOGITS)
    assert found.tokens.tolist() == [1, 3]
    np.testing.assert_allclose(found.probabilities, np.exp([1, 3]) / np.exp([1, 3]).sum())


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (
            lambda tokens, logits: np.full(4, -np.inf),
            "expected at least one allowed token after 2 tokens, got -inf",
        ),
        (lambda tokens, logits: logits[:3], r"expected None or logits of shape \(4,\), got float32 of shape"),
        (lambda tokens, logits: [0.0, np.nan, 0, 0], "expected finite logits or -inf, got nan for token 1"),
        (lambda tokens, logits: [0.0, 0, np.inf, 0], "expected finite logits or -inf, got inf for token 2"),
        (lambda tokens, logits: [1e300, 0, 0, 0], "expected finite logits or -inf, got inf for token 0"),
    ],
)
def test_what_is_refused(processor: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=rf"logits_processors\[1\]: {message}"):
        sample(only(0, 1, 2, 3), processor, tokens=[1, 2])


def test_all_allowed_tokens_banned() -> None:
    options = SamplingOptions(banned_tokens=[3])
    with pytest.raises(GenerationError, match=r"logits_processors\[0\]: expected at least one allowed token after 0"):
        sample(only(3), options=options)
    with pytest.raises(GenerationError, match="expected at least one token that is not banned"):
        sample(lambda tokens, logits: [-np.inf, -np.inf, -np.inf, 9.0], options=options)


@pytest.mark.parametrize(
    ("processors", "message"),
    [
        ([1], r"logits_processors\[0\]: expected a callable, got 1"),
        (only(1), "logits_processors: expected a sequence of callables, got <function"),
        (5, "logits_processors: expected a sequence of callables, got 5"),
    ],
)
def test_what_is_not_a_processor(processors: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        Sampler(GREEDY, 4, 0, processors)


def test_a_grammar_over_a_generation() -> None:
    """Forces a digit after every letter; sees the generated tokens, without the prompt."""

    def alternate(tokens: Sequence[int], logits: Logits) -> None:
        digits = np.arange(ord("0"), ord("9") + 1)
        letters = np.arange(ord("a"), ord("z") + 1)
        allowed = digits if len(tokens) % 2 else letters
        keep = logits[allowed].copy()
        logits[:] = -np.inf
        logits[allowed] = keep

    model = CountingModel(256, ByteTokenizer())
    generation = generate(model, "12", max_tokens=8, seed=1, top_p=1.0, logits_processors=[alternate])
    text = "".join(generation)
    assert len(text) == 8
    assert text[0::2].isalpha()
    assert text[1::2].isdigit()
