"""Log-probabilities, ranks and the likeliest tokens against the formula and the full distribution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import ConfigError, TokenError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text.logprobs import Logprobs, logprob_chunks, logprobs
from rwkv_cy.text.score import CHUNK_TOKENS, score
from text.test_score import TEXT, Bigrams


def every_row(model: Any, tokens: bytes) -> np.ndarray:
    """Return the log-probabilities of all tokens after each but the last, float64."""
    logits = model.forward(list(tokens), None, all_logits=True)[0].astype(np.float64)[:-1]
    return logits - np.logaddexp.reduce(logits, axis=1)[:, np.newaxis]


def check(found: Logprobs, expected: np.ndarray, tokens: bytes, top: int) -> None:
    """Hold all but the first token against the full distribution."""
    following = np.frombuffer(tokens, np.uint8)[1:].astype(int)
    own = expected[np.arange(len(expected)), following]
    np.testing.assert_allclose(found.logprobs[1:], own, rtol=1e-9, atol=1e-12)
    order = np.argsort(-expected, axis=1, kind="stable")
    np.testing.assert_array_equal(found.ranks[1:], (order == following[:, np.newaxis]).argmax(axis=1) + 1)
    np.testing.assert_array_equal(found.top_tokens[1:], order[:, :top])
    np.testing.assert_allclose(
        found.top_logprobs[1:], np.take_along_axis(expected, order[:, :top], 1), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("top", [0, 1, 5, 256])
def test_against_the_full_distribution(top: int) -> None:
    assert len(TEXT) > 2 * CHUNK_TOKENS
    check(logprobs(Bigrams(), TEXT, top=top), every_row(Bigrams(), TEXT), TEXT, top)


def test_with_a_language_model(kjv: LanguageModel) -> None:
    found = kjv.logprobs(TEXT[:300], top=4)
    check(found, every_row(kjv, TEXT[:300]), TEXT[:300], 4)
    np.testing.assert_array_equal(found.logprobs, score(kjv, TEXT[:300]))
    np.testing.assert_array_equal(found.tokens, list(TEXT[:300]))
    assert found.predicted == 299
    assert found.total == pytest.approx(float(score(kjv, TEXT[:300])[1:].sum()))
    assert found.perplexity == pytest.approx(math.exp(-found.total / 299))
    for name in ("tokens", "ranks", "top_tokens"):
        assert getattr(found, name).dtype == np.int64


def test_equally_likely_tokens_are_in_the_order_of_their_ids() -> None:
    class Even(Bigrams):
        table = np.zeros((256, 256), np.float32)

    Even.table[:, 200] = 1
    found = logprobs(Even(), [7, 9, 200], top=3)
    # The model adds to logit 0 how many tokens it has read.
    assert found.top_tokens[1].tolist() == [200, 0, 1]
    assert found.top_tokens[2].tolist() == [0, 200, 1]
    assert found.ranks.tolist() == [0, 2, 1]


def test_the_first_token_is_predicted_by_logits_alone() -> None:
    alone = logprobs(Bigrams(), TEXT, top=2)
    assert (np.isnan(alone.logprobs[0]), alone.ranks[0], alone.top_tokens[0].tolist()) == (True, 0, [-1, -1])
    assert alone.predicted == len(TEXT) - 1
    assert math.isfinite(alone.total)
    model = Bigrams()
    logits, state = model.forward(list(TEXT[:100]))
    rest = logprobs(model, TEXT[100:], top=2, state=state, logits=logits)
    np.testing.assert_allclose(rest.logprobs, alone.logprobs[100:], rtol=1e-12)
    np.testing.assert_array_equal(rest.top_tokens, alone.top_tokens[100:])
    assert rest.predicted == len(rest.tokens)


def test_nothing_is_predicted() -> None:
    found = logprobs(Bigrams(), "a")
    assert (found.predicted, found.total) == (0, 0.0)
    assert math.isnan(found.perplexity)


def test_a_perplexity_beyond_floats() -> None:
    found = Logprobs(np.array([1]), np.array([-1e4]), np.array([9]), np.empty((1, 0), np.int64), np.empty((1, 0)))
    assert found.perplexity == math.inf


def test_chunks_bound_the_memory() -> None:
    tokens = np.frombuffer(TEXT, np.uint8).astype(np.int64)
    sizes = [len(chunk.tokens) for chunk in logprob_chunks(Bigrams(), tokens)]
    assert sizes[:2] == [1, CHUNK_TOKENS]
    assert max(sizes) == CHUNK_TOKENS
    assert sum(sizes) == len(tokens)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="top: expected 0 to 256 tokens, got 257"):
        logprobs(Bigrams(), "ab", top=257)
    for top in ("3", 1.5, True):
        with pytest.raises(ConfigError, match=f"top: expected 0 to 256 tokens, got {top!r}"):
            logprobs(Bigrams(), "ab", top=top)
    with pytest.raises(ConfigError, match=r"logits: expected shape \(256,\), got \(3,\)"):
        logprobs(Bigrams(), "ab", logits=np.zeros(3))
    with pytest.raises(ConfigError, match="logprobs: expected a model and then a text, got str and Bigrams"):
        logprobs("ab", Bigrams())
    with pytest.raises(TokenError, match="tokens is empty"):
        logprobs(Bigrams(), "")
