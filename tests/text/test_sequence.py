"""A sequence without model and state, driven by the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.sampling import Candidates, NucleusSearch, Sampler, SamplingOptions, find_candidates
from rwkv_cy.text.sequence import Sequence
from rwkv_cy.text.tokenizers import ByteTokenizer


def sequence(prompt: bytes = b"x", **arguments: Any) -> Sequence:
    return Sequence(prompt, ByteTokenizer(), Sampler(SamplingOptions(temperature=0), 256), **arguments)


def logits(token: int | str, size: int = 256) -> npt.NDArray[np.float32]:
    """Logits whose likeliest token is `token`."""
    result = np.zeros(size, np.float32)
    result[ord(token) if isinstance(token, str) else token] = 9.0
    return result


def feed(text: Sequence, script: str | bytes) -> None:
    for byte in script.encode() if isinstance(script, str) else script:
        text.mark_read()
        assert text.accept(logits(byte)) == byte


def test_from_the_prompt_to_the_limit() -> None:
    text = sequence(b"abc", max_tokens=2)
    assert (text.prompt, text.pending, text.tokens, text.text) == (list(b"abc"), list(b"abc"), [], "")
    text.mark_read(2)
    assert text.pending == list(b"c")
    text.mark_read()
    assert text.accept(logits("d")) == ord("d")
    assert (text.pending, text.tokens, text.text, text.finish_reason) == ([ord("d")], [ord("d")], "d", None)
    text.mark_read(1)
    text.accept(logits("e"))
    assert (text.text, text.finish_reason) == ("de", "length")
    assert text.pending == [ord("e")]  # the model reads it if the state after the text is needed
    assert repr(text) == "Sequence(3 prompt tokens, 2 generated, 1 pending, finish_reason='length')"


def test_pending_is_a_copy() -> None:
    text = sequence()
    text.pending.clear()
    assert text.pending == [ord("x")]


def test_new_text_is_taken_once() -> None:
    text = sequence()
    feed(text, "ab")
    assert text.take_text() == "ab"
    assert text.take_text() == ""
    feed(text, "人".encode()[:2])
    assert text.take_text() == ""
    feed(text, "人".encode()[2:] + b"c")
    assert text.take_text() == "人c"
    assert text.text == "ab人c"


def test_a_stop_token_is_not_part_of_the_text() -> None:
    text = sequence(stop_tokens=[0, 1])
    feed(text, "a")
    text.mark_read()
    assert text.accept(logits(1)) == 1
    assert (text.tokens, text.pending, text.finish_reason) == ([ord("a")], [], "stop_token")


def test_a_stop_string_ends_the_text_before_it() -> None:
    text = sequence(stop="END", max_tokens=9)
    feed(text, "aEN")
    assert text.text == "a"
    feed(text, "D")
    assert (text.text, text.finish_reason) == ("a", "stop_string")
    assert text.tokens == list(b"aEND")


def test_the_end_releases_what_was_held_back() -> None:
    text = sequence(stop="END", max_tokens=3)
    feed(text, "aEN")
    assert (text.text, text.finish_reason) == ("aEN", "length")


def test_a_limit_of_zero_is_complete_at_once() -> None:
    text = sequence(max_tokens=0)
    assert text.finish_reason == "length"
    assert text.pending == [ord("x")]


def test_logits_longer_than_the_vocabulary() -> None:
    text = sequence()
    text.mark_read()
    assert text.accept(logits("z", 300) + logits(299, 300) * 2) == ord("z")


def test_use_out_of_order() -> None:
    text = sequence(b"ab", max_tokens=1)
    with pytest.raises(GenerationError, match="expected logits after every pending token, got 2 still unread"):
        text.accept(logits("c"))
    with pytest.raises(GenerationError, match="count: expected 0 to 2 pending tokens, got 3"):
        text.mark_read(3)
    with pytest.raises(GenerationError, match="count: expected 0 to 2 pending tokens, got -1"):
        text.mark_read(-1)
    feed(text, "c")
    text.mark_read()
    with pytest.raises(GenerationError, match="expected a text in progress, got one that ended by length"):
        text.accept(logits("c"))


def test_logits_that_are_refused_change_nothing() -> None:
    text = sequence()
    text.mark_read()
    with pytest.raises(GenerationError, match="expected finite numbers, got nan for token 7"):
        text.accept(np.where(np.arange(256) == 7, np.nan, 0.0))
    feed(text, "a")
    assert text.text == "a"


def test_sequences_do_not_share_anything() -> None:
    one, other = sequence(b"1"), sequence(b"2")
    for byte in b"abc":
        for text, token in ((one, byte), (other, byte + 10)):
            text.mark_read()
            text.accept(logits(token))
    assert (one.text, other.text) == ("abc", "klm")


def test_candidates_of_a_search() -> None:
    """A search leaves the text as it was; with its candidates, the next token is the one of the logits."""
    text, other = sequence(b"a"), sequence(b"a")
    with pytest.raises(GenerationError, match="accept: expected logits after every pending token, got 1 still unread"):
        text.search(logits("b"))
    for byte in b"bcd":
        text.mark_read()
        other.mark_read()
        wide = np.append(logits(byte), np.float32(99))
        (candidates,) = find_candidates([text.search(wide)], NucleusSearch())
        assert text.tokens == other.tokens
        assert isinstance(candidates, Candidates)
        assert text.accept(wide, candidates) == other.accept(wide) == byte
    assert text.text == other.text == "bcd"
