"""Beam search against a search of everything, and the best of n samples against each sample."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from rwkv_cy.config import Config
from rwkv_cy.errors import GenerationError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text import SamplingOptions, beam_search, best_of
from rwkv_cy.text.score import log_softmax
from rwkv_cy.text.tokenizers.utf8 import Utf8Stream


class FewLetters:
    """Five tokens: a to d, and the end of a text."""

    kind, vocab_size, end_of_text = "letters", 5, 4

    def encode(self, text: str) -> list[int]:
        return ["abcd".index(letter) for letter in text]

    def encode_bytes(self, data: bytes) -> list[int]:
        return self.encode(data.decode())

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        return bytes(b"abcd."[token] for token in tokens)

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        return self.decode_bytes(tokens).decode()

    def stream(self) -> Utf8Stream:
        return Utf8Stream(self.decode_bytes)

    def to_bytes(self) -> bytes:
        return b""


@pytest.fixture(scope="module")
def letters() -> LanguageModel:
    config = Config(d_model=16, num_layers=2, vocab_size=5)
    model = LanguageModel.new(config, 0)
    rng = np.random.default_rng(1)
    arrays = {name: np.array(each.array) for name, each in model.parameters.items()}
    for name in ("head.weight", "emb.weight", "blocks.0.ffn.key.weight", "blocks.1.ffn.value.weight"):
        arrays[name] = rng.standard_normal(arrays[name].shape).astype(np.float32)
    return LanguageModel(config, arrays, FewLetters())


def every_text(model: LanguageModel, prompt: list[int], length: int) -> dict[tuple[int, ...], float]:
    """Return the log-probability of every text that ends by token 4, or after so many tokens."""
    texts = {}
    for tokens in product(range(5), repeat=length):
        end = tokens.index(4) + 1 if 4 in tokens else length
        text = tokens[:end]
        if text not in texts:
            rows, _ = model.forward([*prompt, *text], all_logits=True)
            rows = rows[len(prompt) - 1 : -1]
            texts[text] = float(sum(log_softmax(row)[token] for row, token in zip(rows, text, strict=True)))
    return texts


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_many_beams_find_the_best_of_all_texts(letters: LanguageModel, penalty: float) -> None:
    texts = every_text(letters, [0, 1], 4)
    expected = sorted(texts, key=lambda text: -texts[text] / len(text) ** penalty)
    found = beam_search(letters, "ab", beams=200, max_tokens=4, length_penalty=penalty)
    for text, candidate in zip(expected, found, strict=False):
        assert candidate.tokens == [token for token in text if token != 4]
        assert candidate.logprob == pytest.approx(texts[text], abs=1e-5)
        assert candidate.score == pytest.approx(texts[text] / len(text) ** penalty, abs=1e-5)
        assert candidate.finish_reason == ("stop_token" if text[-1] == 4 else "length")
        assert candidate.text == letters.tokenizer.decode(candidate.tokens)  # type: ignore[union-attr]
    assert len(found) == 200


def test_one_beam_is_greedy(kjv: LanguageModel) -> None:
    (found,) = beam_search(kjv, "In the", beams=1, max_tokens=20, stop_tokens=())
    assert found.text == "".join(kjv.generate("In the", temperature=0, max_tokens=20, stop_tokens=()))
    assert found.logprob == pytest.approx(kjv.score("In the" + found.text)[6:].sum())


def test_more_beams_find_likelier_texts(kjv: LanguageModel) -> None:
    found = [beam_search(kjv, "And he said", beams=beams, max_tokens=16, stop_tokens=()) for beams in (1, 4, 16)]
    assert found[0][0].logprob < found[1][0].logprob <= found[2][0].logprob
    assert [each.score for each in found[2]] == sorted((each.score for each in found[2]), reverse=True)


def test_beams_end_at_stop_strings(kjv: LanguageModel) -> None:
    greedy = "".join(kjv.generate("In the", temperature=0, max_tokens=20))
    found = beam_search(kjv, "In the", beams=1, max_tokens=20, stop=[greedy[4:7]])
    assert (found[0].text, found[0].finish_reason) == (greedy[:4], "stop_string")


def test_beams_start_from_a_state(kjv: LanguageModel) -> None:
    _, state = kjv.forward(list(b"In "))
    before = state.copy()
    assert beam_search(kjv, "the", state=state, max_tokens=8) == beam_search(kjv, "In the", max_tokens=8)
    assert state == before


def test_each_sample_is_that_of_its_seed(kjv: LanguageModel) -> None:
    options = SamplingOptions(temperature=0.9, presence_penalty=0.2)
    found = best_of(kjv, "And he said", 6, seed=7, max_tokens=24, options=options, stop=["the"])
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    expected = {}
    for i in range(6):
        rng = np.random.default_rng([7, i])
        generation = kjv.generate("And he said", seed=rng, max_tokens=24, options=options, stop=["the"])
        text = "".join(generation)
        expected[text] = (generation.tokens, generation.finish_reason)
        total = kjv.score([*b"And he said", *generation.tokens])[11:].sum()
        (same,) = [each for each in found if each.tokens == generation.tokens]
        assert same.logprob == pytest.approx(total)
        assert same.score == pytest.approx(total / len(generation.tokens))
    assert {each.text: (each.tokens, each.finish_reason) for each in found} == expected


def test_a_stop_token_counts(letters: LanguageModel) -> None:
    found = best_of(letters, "ab", 20, seed=1, max_tokens=30)
    assert {each.finish_reason for each in found} >= {"stop_token"}
    for each in found:
        if each.finish_reason == "stop_token":
            assert each.score == pytest.approx(each.logprob / (len(each.tokens) + 1))
    assert best_of(letters, "ab", 2, max_tokens=0)[0].tokens == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beams": 0}, "beams: expected at least 1, got 0"),
        ({"beams": 1000}, "beams: expected an integer from 0 to 256"),
        ({"max_tokens": 0}, "max_tokens, length_penalty: expected at least 1 and a number from 0, got 0"),
        (
            {"length_penalty": -1.0},
            "length_penalty: expected at least 1 and a number from 0, got 256, -1.0",
        ),
        ({"prompt": ""}, "prompt: expected at least one token, got none"),
        ({"stop": [""]}, "stop: expected strings of at least one character"),
    ],
)
def test_what_beam_search_refuses(kjv: LanguageModel, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        beam_search(kjv, **{"prompt": "a", **arguments})  # type: ignore[arg-type]


def test_what_best_of_refuses(kjv: LanguageModel) -> None:
    with pytest.raises(GenerationError, match="count: expected at least 1, got 0"):
        best_of(kjv, "a", 0)
    with pytest.raises(GenerationError, match="seed: expected a non-negative integer, got -1"):
        best_of(kjv, "a", 1, seed=-1)
    with pytest.raises(GenerationError, match="prompt: expected at least one token, got none"):
        best_of(kjv, "", 1)
