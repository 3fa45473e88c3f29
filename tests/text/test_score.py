"""Scores against the formula, with a model without weights and with a trained one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.errors import ConfigError, TokenError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text.score import CHUNK_TOKENS, score
from rwkv_cy.text.tokenizers import ByteTokenizer

TEXT = b"And God said, Let there be light: and there was light. " * 12


class Bigrams:
    """A model whose logits are a table's row for the last token, plus how many tokens it has read."""

    vocab_size = 256
    tokenizer: Any = ByteTokenizer()
    table = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32) * 5

    def forward(
        self,
        tokens: Any,
        state: list[int] | None = None,
        *,
        all_logits: bool = False,
        in_place: bool = False,
        **rest: Any,
    ) -> tuple[npt.NDArray[np.float32], list[int]]:
        state = state if in_place and state is not None else list(state or ())
        rows = self.table[np.asarray(tokens)]
        rows[:, 0] += len(state) + np.arange(len(tokens))
        state.extend(int(token) for token in tokens)
        return (rows if all_logits else rows[-1]), state


def by_formula(model: Any, tokens: list[int], state: Any = None) -> list[float]:
    """Return log p of each token after the first, one token at a time."""
    result = []
    for token, following in itertools.pairwise(tokens):
        logits, state = model.forward([token], state)
        wide = logits.astype(np.float64)
        result.append(wide[following] - np.logaddexp.reduce(wide))
    return result


def test_against_the_formula() -> None:
    model = Bigrams()
    scores = score(model, TEXT)
    assert scores.shape == (len(TEXT),)
    assert len(TEXT) > 2 * CHUNK_TOKENS
    assert np.isnan(scores[0])
    np.testing.assert_allclose(scores[1:], by_formula(model, list(TEXT)), rtol=1e-12)


def test_with_a_language_model(kjv: LanguageModel) -> None:
    scores = score(kjv, TEXT)
    np.testing.assert_allclose(scores[1:], by_formula(kjv, list(TEXT)), rtol=1e-9)
    for same in (TEXT.decode(), list(TEXT), np.frombuffer(TEXT, np.uint8)):
        np.testing.assert_array_equal(score(kjv, same), scores)


def test_going_on_from_a_state() -> None:
    model = Bigrams()
    whole = score(model, TEXT)
    logits, state = model.forward(list(TEXT[:100]))
    before = list(state)
    rest = score(model, TEXT[100:], state=state, logits=logits)
    np.testing.assert_allclose(rest, whole[100:], rtol=1e-12)
    assert state == before
    assert np.isnan(score(model, TEXT[100:], state=state)[0])


def test_one_token() -> None:
    assert np.isnan(score(Bigrams(), "a")).tolist() == [True]
    assert score(Bigrams(), "a", logits=np.zeros(256)) == pytest.approx([-np.log(256)])


def test_what_is_refused() -> None:
    class Bare(Bigrams):
        tokenizer = None

    with pytest.raises(ConfigError, match="text: the model has no tokenizer; give it one, or pass token ids"):
        score(Bare(), "ab")
    assert len(score(Bare(), [1, 2])) == 2
    with pytest.raises(TokenError, match="tokens is empty; give at least one"):
        score(Bigrams(), "")
    with pytest.raises(TokenError, match=r"tokens\[0\]: expected an id from 0 to 255, got 256"):
        score(Bigrams(), [256])
    with pytest.raises(TokenError, match="expected token ids, got several texts; pass one text, or one call for each"):
        score(Bigrams(), ["a", "b"])
    with pytest.raises(ConfigError, match="score: expected a model and then a text, got str and Bigrams; rwkv_cy.load"):
        score("ab", Bigrams())
    with pytest.raises(ConfigError, match=r"logits: expected shape \(256,\), got \(3,\)"):
        score(Bigrams(), "ab", logits=np.zeros(3))
