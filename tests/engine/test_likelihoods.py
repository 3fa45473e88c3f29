"""Log-likelihoods in batches are those of each pair alone, and read what contexts share once."""

from __future__ import annotations

import numpy as np
import pytest

from rwkv_cy.engine import loglikelihoods
from rwkv_cy.errors import ConfigError, NumericalError, TokenError
from rwkv_cy.model.language_model import LanguageModel


def test_each_pair_alone(model: LanguageModel, heldout: bytes) -> None:
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(60):
        start, end = sorted(rng.integers(1, 60, 2))
        head = heldout[: int(rng.choice([20, 40, 90]))]
        context, continuation = head + heldout[100 : 100 + start], heldout[200 + start : 201 + end]
        pairs.append((list(context), list(continuation)))
    pairs.append((list(heldout[:20]), list(heldout[20:800])))
    generation = model.generate(heldout[:20], temperature=0, max_tokens=5, stop_tokens=())
    assert list(generation)
    pairs.append((list(heldout[:20]), generation.tokens))
    results = loglikelihoods(model, pairs)
    for (context, continuation), result in zip(pairs, results, strict=True):
        scores = model.score(context + continuation)[len(context) :]
        assert result.logprob == pytest.approx(scores.sum(), abs=1e-9)
        rows, _ = model.forward(context + continuation, all_logits=True)
        assert result.greedy == (rows[len(context) - 1 : -1].argmax(axis=1) == continuation).all()
        assert result.tokens == len(continuation)
    assert results[-1].greedy
    assert not all(result.greedy for result in results)
    assert loglikelihoods(model, []) == []


def test_shared_beginnings_are_read_once(kjv: LanguageModel, heldout: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    run, tokens = kjv.encoder.run, []

    def counting(xs: np.ndarray, *arguments: object, **keywords: object) -> None:
        tokens.append(len(xs))
        run(xs, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(kjv.encoder, "run", counting)
    shots = list(heldout[:200])
    questions = [[i, *heldout[300 + 50 * i : 339 + 50 * i]] for i in range(5)]
    pairs = [(shots + question, [65 + i, 10]) for question in questions for i in range(4)]
    loglikelihoods(kjv, pairs)
    assert sum(tokens) == 200 + 5 * 40 + 5 * 4
    assert len(tokens) == 1 + 5 + 5


def test_what_is_refused(kjv: LanguageModel) -> None:
    for pair in (([], [1]), ([1], [])):
        with pytest.raises(
            ConfigError, match=r"pairs\[1\]: expected a context and a continuation of at least one token"
        ):
            loglikelihoods(kjv, [([1], [2]), pair])
    with pytest.raises(TokenError, match="expected an id from 0 to 255, got 999"):
        loglikelihoods(kjv, [([1], [999])])


def test_logits_that_are_not_finite(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kjv.passes, "run", lambda parts, threads: [np.full((1, 256), np.nan) for _ in parts])
    with pytest.raises(NumericalError, match="logits: expected finite numbers, got NaN or infinity"):
        loglikelihoods(kjv, [([1], [2, 3])])
