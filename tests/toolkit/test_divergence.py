from __future__ import annotations

import json

import numpy as np
import pytest

from checkpoints import random_model
from rwkv_cy.errors import ConfigError, TokenError
from rwkv_cy.toolkit.divergence import DivergenceReport, divergence
from rwkv_cy.toolkit.perplexity import perplexity

REFERENCE, MODEL = random_model(seed=1), random_model(seed=2)
TOKENS = np.random.default_rng(0).integers(50, size=600)


def test_a_model_does_not_diverge_from_itself() -> None:
    found = divergence(REFERENCE, REFERENCE, TOKENS)
    assert (found.tokens, found.kl, found.largest_kl, found.same_top) == (599, 0, 0, 599)
    assert found.perplexity == found.reference_perplexity == pytest.approx(perplexity(REFERENCE, TOKENS).perplexity)


def test_the_formula() -> None:
    found = divergence(REFERENCE, MODEL, TOKENS)
    p, q = (np.exp(model.forward(TOKENS, all_logits=True)[0][:-1].astype("f8")) for model in (REFERENCE, MODEL))
    p /= p.sum(axis=1, keepdims=True)
    q /= q.sum(axis=1, keepdims=True)
    kl = (p * np.log(p / q)).sum(axis=1)
    assert found.kl == pytest.approx(kl.mean(), rel=1e-5)
    assert found.largest_kl == pytest.approx(kl.max(), rel=1e-5)
    assert found.same_top == (p.argmax(axis=1) == q.argmax(axis=1)).sum()
    assert found.perplexity == pytest.approx(perplexity(MODEL, TOKENS).perplexity)
    assert found.reference_perplexity == pytest.approx(perplexity(REFERENCE, TOKENS).perplexity)


def test_progress_reaches_its_end() -> None:
    calls: list[tuple[int, int]] = []
    divergence(REFERENCE, MODEL, TOKENS, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (600, 600)
    assert len(calls) > 1


def test_json_has_no_infinities() -> None:
    report = DivergenceReport(1, 1.0, 1e6, float("inf"), float("inf"), 0)
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (values["perplexity"], values["kl"], values["reference_nats"]) == (None, None, 1.0)


def test_errors() -> None:
    with pytest.raises(ConfigError, match="expected models of one vocabulary, got 50 and 60"):
        divergence(REFERENCE, random_model(vocab_size=60), TOKENS)
    for text in ([], [1]):
        with pytest.raises(TokenError, match="at least two tokens"):
            divergence(REFERENCE, MODEL, text)
    with pytest.raises(ConfigError, match="has no tokenizer"):
        divergence(REFERENCE, MODEL, "text")
    with pytest.raises(ConfigError, match="expected a model"):
        divergence("model.h5", MODEL, TOKENS)  # type: ignore[arg-type]
