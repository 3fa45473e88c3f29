"""Sampling options: invalid values and their errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import GenerationError
from rwkv_cy.text.sampling import Sampler
from rwkv_cy.text.sampling.options import MAX_COUNT, SamplingOptions, check_natural


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", -0.1, "temperature: expected a non-negative number, got -0.1"),
        ("temperature", float("nan"), "temperature: expected a non-negative number, got nan"),
        ("temperature", float("inf"), "temperature: expected a non-negative number, got inf"),
        ("temperature", "1", "temperature: expected a non-negative number, got '1'"),
        ("temperature", True, "temperature: expected a non-negative number, got True"),
        ("temperature", None, "temperature: expected a non-negative number, got None"),
        ("top_p", -0.1, "top_p: expected a number from 0 to 1, got -0.1"),
        ("top_p", 1.1, "top_p: expected a number from 0 to 1, got 1.1"),
        ("presence_penalty", 1e7, r"presence_penalty: expected a number from -1e\+06 to 1e\+06, got"),
        ("frequency_penalty", float("-inf"), "frequency_penalty: expected a number from"),
        ("penalty_decay", 1.5, "penalty_decay: expected a number from 0 to 1, got 1.5"),
        ("repetition_penalty", 0, "repetition_penalty: expected a number from 0.01 to 100, got 0"),
        ("top_k", -1, "top_k: expected a non-negative integer, got -1"),
        ("top_k", 1.0, "top_k: expected a non-negative integer, got 1.0"),
        ("repetition_window", True, "repetition_window: expected a non-negative integer, got True"),
        ("top_k", 1 << 63, "top_k: expected an integer from 0 to 9223372036854775807, got a larger one"),
        ("repetition_window", 10**30, "repetition_window: expected an integer from 0 to 9223372036854775807, got a"),
        ("no_repeat_ngram", 10**30, "no_repeat_ngram: expected an integer from 0 to 9223372036854775807, got a larger"),
        ("no_repeat_ngram", "3", "no_repeat_ngram: expected a non-negative integer, got '3'"),
        ("banned_tokens", [1, -1], r"banned_tokens: expected token ids from 0, got \[1, -1\]"),
        ("banned_tokens", [True], r"banned_tokens: expected token ids from 0, got \[True\]"),
        ("banned_tokens", [np.bool_(True)], r"banned_tokens: expected token ids from 0, got "),
        ("banned_tokens", 3, "banned_tokens: expected token ids, got 3"),
        ("banned_tokens", "ab", "banned_tokens: expected token ids, got 'ab'"),
        ("banned_tokens", None, "banned_tokens: expected token ids, got None"),
        ("penalty_free_tokens", [0.5], "penalty_free_tokens: expected token ids, got"),
        ("logit_bias", [1], r"logit_bias: expected a mapping of ids to numbers, got \[1\]"),
        ("logit_bias", {"a": 1.0}, "logit_bias: expected token ids, got"),
        ("logit_bias", {-1: 1.0}, "logit_bias: expected token ids from 0, got"),
        ("logit_bias", {1: float("nan")}, "logit_bias of token 1: expected a number from"),
        ("order", "llama", "order: expected one of temperature-first, rwkv, got 'llama'"),
        ("order", [], "order: expected one of"),
    ],
)
def test_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        SamplingOptions(**{name: value})


def test_the_largest_counts_are_no_limit() -> None:
    options = SamplingOptions(top_k=MAX_COUNT, repetition_window=MAX_COUNT, no_repeat_ngram=MAX_COUNT, temperature=0)
    sampler = Sampler(options, 4, rng=0)
    assert sampler.sample(np.array([0.0, 1.0, 3.0, 2.0], np.float32)) == 2


def test_what_is_given_is_copied() -> None:
    bias = {np.int64(3): 1.0}
    banned = [1, 2]
    options = SamplingOptions(logit_bias=bias, banned_tokens=banned)
    bias[np.int64(3)] = 9.0
    banned.append(7)
    assert options.logit_bias == {3: 1.0}
    assert options.banned_tokens == frozenset({1, 2})


def test_options_are_values() -> None:
    options = SamplingOptions(temperature=np.float32(0.5), top_k=np.int64(3), logit_bias={1: 2})
    assert options == SamplingOptions(temperature=0.5, top_k=3, logit_bias={1: 2.0})
    assert hash(options) == hash(copy.deepcopy(options))
    assert pickle.loads(pickle.dumps(options)) == options


def test_naturals() -> None:
    check_natural("n", 0)
    with pytest.raises(GenerationError, match="n: expected a non-negative integer, got -1"):
        check_natural("n", -1)
