"""Perplexity against its formula, over chunks and windows."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from rwkv7_shapes import rwkv7_config
from rwkv_cy.errors import ConfigError, StorageError, TokenError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text import ByteTokenizer
from rwkv_cy.toolkit.perplexity import PerplexityReport, perplexity

TEXT = b"And God said, Let there be light: and there was light. " * 12


def by_formula(model: LanguageModel, tokens: list[int]) -> float:
    """Return the sum of -ln p, one token at a time."""
    state, nats = None, 0.0
    for token, following in itertools.pairwise(tokens):
        logits, state = model.forward(token, state)
        nats -= float(logits[following]) - float(np.logaddexp.reduce(logits.astype(np.float64)))
    return nats


def test_against_the_formula(kjv: LanguageModel) -> None:
    report = perplexity(kjv, TEXT)
    assert report.tokens == report.text_bytes == len(TEXT) - 1
    assert report.nats == pytest.approx(by_formula(kjv, list(TEXT)), rel=1e-9)
    assert report.perplexity == pytest.approx(math.exp(report.nats / report.tokens))
    assert report.bits_per_byte == pytest.approx(math.log2(report.perplexity))
    assert perplexity(kjv, TEXT.decode()) == perplexity(kjv, list(TEXT)) == report


def test_a_model_of_another_version() -> None:
    config = rwkv7_config(32, 2, 16, (4, 4, 4, 4), vocab_size=256)
    model = LanguageModel.new(config, 0, ByteTokenizer())
    report = perplexity(model, TEXT)
    assert report.nats == pytest.approx(by_formula(model, list(TEXT)), rel=1e-9)
    assert report.tokens == report.text_bytes == len(TEXT) - 1


def test_windows_begin_anew(kjv: LanguageModel) -> None:
    parts = [list(TEXT[start : start + 300]) for start in range(0, len(TEXT), 300)]
    report = perplexity(kjv, TEXT, window=300)
    assert report.nats == pytest.approx(sum(by_formula(kjv, part) for part in parts), rel=1e-9)
    assert report.tokens == len(TEXT) - len(parts)
    assert report.perplexity > perplexity(kjv, TEXT).perplexity


def test_progress_reaches_the_end(kjv: LanguageModel) -> None:
    seen: list[tuple[int, int]] = []
    perplexity(kjv, TEXT, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(TEXT), len(TEXT))
    assert seen == sorted(seen)


def test_as_json() -> None:
    values = PerplexityReport(2, 2 * math.log(8), 3).to_dict()
    assert values["perplexity"] == pytest.approx(8)
    assert values["bits_per_byte"] == pytest.approx(2)
    assert PerplexityReport(2, 1.0, None).bits_per_byte is None
    hopeless = PerplexityReport(1, 1e4, 1)
    assert hopeless.perplexity == math.inf
    assert hopeless.to_dict()["perplexity"] is None


def test_what_is_refused(kjv: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="window: expected at least 2 tokens, got 1"):
        perplexity(kjv, TEXT, window=1)
    with pytest.raises(TokenError, match="text: expected at least two tokens, got 1"):
        perplexity(kjv, b"a")
    with pytest.raises(TokenError, match=r"some.txt: expected at least two tokens, got 0"):
        perplexity(kjv, b"", name="some.txt")
    with pytest.raises(TokenError, match=r"tokens\[1\]: expected an id from 0 to 255, got 256"):
        perplexity(kjv, [1, 256])
    bare = LanguageModel(kjv.config, kjv.parameters)
    with pytest.raises(ConfigError, match="text: the model has no tokenizer; give it one, or pass token ids"):
        perplexity(bare, TEXT)
    assert perplexity(bare, [1, 2, 3]).text_bytes is None


def test_a_path_is_read_and_a_str_is_text(kjv: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(TEXT)
    assert perplexity(kjv, path) == perplexity(kjv, TEXT)
    assert perplexity(kjv, str(path)) == perplexity(kjv, str(path).encode())
    path.write_bytes(b"a")
    with pytest.raises(TokenError, match=r"t\.txt: expected at least two tokens, got 1"):
        perplexity(kjv, path)
    with pytest.raises(StorageError, match="missing"):
        perplexity(kjv, tmp_path / "missing")


def test_arguments_of_another_type(kjv: LanguageModel) -> None:
    with pytest.raises(
        ConfigError, match="perplexity: expected a model and then a text, got str and LanguageModel; rwkv_cy.load"
    ):
        perplexity("x", kjv)
    with pytest.raises(ConfigError, match="text: expected str, bytes, token ids or the Path of a text file, got int"):
        perplexity(kjv, 5)
