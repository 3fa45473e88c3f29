"""Generation with a model without weights: pieces, stops, states, seeds, and all kinds of prompt."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rwkv_cy.errors import ConfigError, GenerationError, TokenError, TokenizerError
from rwkv_cy.text.generate import Generation, generate
from rwkv_cy.text.sampling.options import SamplingOptions
from rwkv_cy.text.start import unpenalised_tokens
from rwkv_cy.text.tokenizers import ByteTokenizer
from rwkv_cy.text.tokenizers.world import WorldTokenizer
from text.samples import CountingModel

GREEDY = SamplingOptions(temperature=0)


def bytes_model(script: str | bytes = "") -> CountingModel:
    data = script.encode() if isinstance(script, str) else script
    return CountingModel(256, ByteTokenizer(), data)


def said(script: str | bytes, **arguments: Any) -> tuple[list[str], Generation[list[int]]]:
    """Let a model say `script` greedily; return the pieces, and the generation."""
    arguments = {"max_tokens": len(script.encode() if isinstance(script, str) else script)} | arguments
    generation = generate(bytes_model(script), "x", options=GREEDY, **arguments)
    return list(generation), generation


def test_pieces_as_they_come() -> None:
    pieces, generation = said("In the")
    assert pieces == list("In the")
    assert generation.finish_reason == "length"
    assert generation.tokens == list(b"In the")
    assert generation.prompt == [ord("x")]


def test_one_token_a_piece_and_no_more_read() -> None:
    model = bytes_model("abc")
    generation = generate(model, "xyz", options=GREEDY)
    assert model.calls == []
    assert next(generation) == "a"
    assert next(generation) == "b"
    assert model.calls == [list(b"xyz"), list(b"a")]
    assert generation.finish_reason is None
    assert iter(generation) is generation


def test_half_characters_are_held_back() -> None:
    assert said("a人🙂é")[0] == ["a", "人", "🙂", "é"]
    assert said("人".encode()[:2] + b"b")[0] == ["\ufffdb"]


def test_half_a_character_at_the_end() -> None:
    assert said("a🙂".encode()[:-1])[0] == ["a", "\ufffd"]


def test_stop_strings_over_several_tokens() -> None:
    pieces, generation = said("one\n\ntwo", stop="\n\n")
    assert pieces == ["o", "n", "e"]
    assert generation.finish_reason == "stop_string"
    assert generation.tokens == list(b"one\n\n")


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    pieces, generation = said("a\nb\n", stop=["\n\n", "END"])
    assert pieces == ["a", "\nb", "\n"]
    assert generation.finish_reason == "length"


def test_a_stop_string_inside_a_token(world: WorldTokenizer) -> None:
    model = CountingModel(65_536, world, world.encode("he In the"))
    generation = generate(model, "x", options=GREEDY, stop=["n t"], max_tokens=9)
    assert "".join(generation) == "he I"
    assert generation.finish_reason == "stop_string"


def test_a_stop_string_that_the_end_completes() -> None:
    pieces, generation = said("a🙂".encode()[:-1], stop="\ufffd")
    assert pieces == ["a"]
    assert generation.finish_reason == "length"


def test_stop_tokens() -> None:
    pieces, generation = said("abcd", stop_tokens=[ord("c"), ord("z")])
    assert pieces == ["a", "b"]
    assert generation.finish_reason == "stop_token"
    assert generation.tokens == list(b"ab")
    assert list(generation) == []


def test_the_end_of_text_stops_where_there_is_one(world: WorldTokenizer) -> None:
    script = [*world.encode("the"), 0, *world.encode("he")]
    generation = generate(CountingModel(65_536, world, script), "x", options=GREEDY)
    assert "".join(generation) == "the"
    assert generation.finish_reason == "stop_token"
    generation = generate(CountingModel(65_536, world, script), "x", options=GREEDY, stop_tokens=(), max_tokens=3)
    assert "".join(generation) == "thehe"
    assert generation.tokens == script


def test_the_same_seed_gives_the_same_text() -> None:
    def text(seed: Any) -> str:
        return "".join(generate(bytes_model(), "x", seed=seed, max_tokens=40))

    assert text(1) == text(1) == text(np.random.default_rng(1))
    assert text(1) != text(2)
    assert text(None) != text(None)


def test_prompts_of_every_kind() -> None:
    for prompt in (
        "é",
        "é".encode(),
        bytearray("é".encode()),
        [0xC3, 0xA9],
        np.array([0xC3, 0xA9]),
        iter((0xC3, 0xA9)),
    ):
        model = bytes_model("a")
        assert list(generate(model, prompt, options=GREEDY, max_tokens=1)) == ["a"]
        assert model.calls == [[0xC3, 0xA9]]


def test_a_long_prompt_is_read_in_equal_parts() -> None:
    model = bytes_model("a")
    list(generate(model, b"x" * 100_001, options=GREEDY, max_tokens=1))
    lengths = [len(call) for call in model.calls]
    assert (sum(lengths), max(lengths)) == (100_001, 511)
    assert min(lengths) >= 510


def test_prefill_shows_how_far_it_is() -> None:
    model = bytes_model("--ab")  # a letter for each call
    generation = generate(model, b"x" * 1025, options=GREEDY, max_tokens=2)
    seen: list[tuple[int, int]] = []
    generation.prefill(lambda done, total: seen.append((done, total)))
    assert seen == [(342, 1025), (684, 1025), (1025, 1025)]
    generation.prefill()
    assert len(model.calls) == 3
    assert "".join(generation) == "ab"


def test_no_tokens_at_all() -> None:
    model = bytes_model("a")
    generation = generate(model, "xy", max_tokens=0)
    assert list(generation) == []
    assert generation.finish_reason == "length"
    assert model.calls == []
    assert generation.state == list(b"xy")


def test_no_end() -> None:
    generation = generate(bytes_model("abc"), "x", options=GREEDY, max_tokens=None, stop="c")
    assert "".join(generation) == "ab"


def test_the_callers_state_is_not_changed() -> None:
    state = [1, 2, 3]
    generation = generate(bytes_model("abc"), "x", state=state, options=GREEDY, max_tokens=3)
    assert "".join(generation) == "abc"
    assert state == [1, 2, 3]
    assert generation.state == [1, 2, 3, *b"xabc"]


def test_states_handed_out_do_not_change() -> None:
    model = bytes_model("abc")
    generation = generate(model, "x", options=GREEDY, max_tokens=3)
    before = generation.state
    assert next(generation) == "a"
    after = generation.state
    assert "".join(generation) == "bc"
    assert (before, after, generation.state) == (list(b"x"), list(b"xa"), list(b"xabc"))
    assert model.calls == [[ord("x")], [ord("a")], [ord("b")], [ord("c")]]  # nothing is read twice


def test_going_on_from_a_state_with_more_text() -> None:
    whole = generate(bytes_model(), "xy", seed=1, max_tokens=0)
    first = generate(bytes_model(), "x", seed=1, max_tokens=0)
    second = generate(bytes_model(), "y", state=first.state, seed=1, max_tokens=0)
    assert second.state == whole.state
    np.testing.assert_array_equal(second.logits, whole.logits)


def test_going_on_from_a_state_with_its_logits() -> None:
    rng = np.random.default_rng(3)
    whole = generate(bytes_model(), "x", seed=3, max_tokens=20)
    list(whole)
    first = generate(bytes_model(), "x", seed=rng, max_tokens=10)
    list(first)
    second = generate(bytes_model(), "", state=first.state, logits=first.logits, seed=rng, max_tokens=10)
    list(second)
    assert first.tokens + second.tokens == whole.tokens


def test_an_empty_prompt_starts_from_the_end_of_text(world: WorldTokenizer) -> None:
    model = CountingModel(65_536, world, world.encode("the"))
    generation = generate(model, "", options=GREEDY, max_tokens=1)
    assert list(generation) == ["the"]
    assert model.calls == [[0]]


def test_an_empty_prompt_with_nothing_to_start_from() -> None:
    with pytest.raises(GenerationError, match="expected at least one token, got none, and the bytes tokenizer has no"):
        generate(bytes_model(), "")


def test_an_empty_prompt_with_a_state_alone(world: WorldTokenizer) -> None:
    for model in (bytes_model(), CountingModel(65_536, world)):
        with pytest.raises(GenerationError, match="a state alone does not say what comes next; pass the logits"):
            generate(model, [], state=[1])


@pytest.mark.parametrize(("prompt", "state"), [("x", [1]), ("x", None), ("", None)])
def test_logits_where_they_make_no_sense(prompt: str, state: list[int] | None) -> None:
    with pytest.raises(GenerationError, match="logits: expected them only with a state and an empty prompt"):
        generate(bytes_model(), prompt, state=state, logits=np.zeros(256, dtype=np.float32))


def test_ids_without_text_are_never_chosen() -> None:
    """A model may have more ids than its tokenizer."""
    model = CountingModel(300, ByteTokenizer(), [299] * 30)
    generation = generate(model, "x", seed=0, max_tokens=30, top_p=1.0)
    assert max(map(len, generation)) >= 1
    assert max(generation.tokens) < 256


def test_options_and_keywords() -> None:
    model = bytes_model("aaa")
    options = SamplingOptions(temperature=0, banned_tokens=[5])
    generation = generate(model, "x", options=options, logit_bias={ord("z"): 1e6}, max_tokens=2)
    assert "".join(generation) == "zz"
    with pytest.raises(TypeError, match="temprature"):
        generate(model, "x", temprature=1.0)  # type: ignore[call-arg]


def test_a_tokenizer_in_place_of_the_models() -> None:
    model = CountingModel(256, None, b"ab")
    assert "".join(generate(model, "x", tokenizer=ByteTokenizer(), options=GREEDY, max_tokens=2)) == "ab"
    with pytest.raises(GenerationError, match="tokenizer: the model has none; pass tokenizer="):
        generate(model, "x")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_tokens": -1}, GenerationError, "max_tokens: expected a non-negative integer, got -1"),
        ({"max_tokens": 1.5}, GenerationError, "max_tokens: expected a non-negative integer, got 1.5"),
        ({"seed": -1}, GenerationError, "seed: expected a non-negative integer, got -1"),
        ({"stop": [""]}, GenerationError, "stop: expected strings of at least one character"),
        ({"stop_tokens": [256]}, TokenError, r"stop_tokens\[0\]: expected an id from 0 to 255, got 256"),
        (
            {"tokenizer": "bytes"},
            GenerationError,
            "tokenizer: expected a Tokenizer, got str; rwkv_cy.text",
        ),
        ({"top_p": 2}, GenerationError, "top_p: expected a number from 0 to 1, got 2"),
        ({"banned_tokens": [256]}, GenerationError, "banned_tokens: expected token ids below 256, got 256"),
        ({"prompt": 3}, GenerationError, "prompt: expected str, bytes or token ids, got int"),
        ({"prompt": None}, GenerationError, "prompt: expected str, bytes or token ids, got NoneType"),
        ({"prompt": [1, 256]}, TokenError, r"tokens\[1\]: expected an id from 0 to 255, got 256"),
        ({"prompt": [True]}, TokenError, r"tokens\[0\]: expected an integer, got True"),
        (
            {"prompt": ["a", "b"]},
            TokenError,
            "tokens: expected token ids, got several texts; pass one text",
        ),
        ({"prompt": "\ud800"}, TokenizerError, "lone surrogate"),
    ],
)
def test_bad_arguments_are_found_before_the_model_reads(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = bytes_model()
    with pytest.raises(error, match=message):
        generate(model, **({"prompt": "x"} | arguments))
    assert model.calls == []


def test_logits_that_are_no_numbers() -> None:
    class Broken(CountingModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            logits, state = super().forward(*args, **kwargs)
            logits[3] = np.nan if len(self.calls) == 3 else 0.0
            return logits, state

    generation = generate(Broken(256, ByteTokenizer(), b"ab"), "x", options=GREEDY)
    assert [next(generation), next(generation)] == ["a", "b"]
    with pytest.raises(GenerationError, match="logits: expected finite numbers, got nan for token 3"):
        next(generation)


def test_tokens_that_the_rwkv_package_does_not_count(world: WorldTokenizer) -> None:
    assert unpenalised_tokens(ByteTokenizer()) == frozenset(b" \t0123456789")
    assert unpenalised_tokens(world) == {i + 1 for i in b" \t0123456789"}  # no longer one in this vocabulary


def test_the_rwkv_order_frees_those_tokens() -> None:
    def digits(**sampling: Any) -> str:
        model = CountingModel(256, ByteTokenizer())
        bias = {ord("7"): 1_000.0, ord("b"): 980.0}
        return "".join(generate(model, "x", temperature=0, logit_bias=bias, max_tokens=6, **sampling))

    penalties = {"frequency_penalty": 50.0, "penalty_decay": 1.0}
    assert digits(order="rwkv", **penalties) == "7" * 6
    assert digits(order="rwkv", penalty_free_tokens=(), **penalties) != "7" * 6
    assert digits(**penalties) != "7" * 6


def test_a_tokenizer_of_something_else_than_text() -> None:
    class Words(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            if text.isdigit():
                raise TokenizerError("no digits here")
            return [1]

    assert unpenalised_tokens(Words()) == frozenset()


@pytest.mark.oracle
def test_as_the_generate_of_the_rwkv_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Token for token, with the same uniform numbers in place of its global random state."""
    torch = pytest.importorskip("torch", reason="needs torch")
    utils = pytest.importorskip("rwkv.utils", reason="needs the rwkv package")
    rng = np.random.default_rng(4)

    def choice(a: int, p: Any) -> int:
        cumulative = np.cumsum(p.astype(np.float64))
        certain = np.count_nonzero(p) == 1  # ours asks for no chance then
        return int(np.searchsorted(cumulative, 0.0 if certain else rng.random() * cumulative[-1], side="right"))

    class Model(CountingModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            logits, state = super().forward(*args, **kwargs)
            return torch.from_numpy(logits), state

    class Encoding:
        encode = staticmethod(ByteTokenizer().encode)
        decode = staticmethod(ByteTokenizer().decode)

    monkeypatch.setattr(np.random, "choice", choice)
    pipeline = object.__new__(utils.PIPELINE)
    pipeline.model, pipeline.tokenizer = Model(256), Encoding()
    args = utils.PIPELINE_ARGS(
        temperature=1.2, top_p=0.7, alpha_frequency=0.4, alpha_presence=0.3, alpha_decay=0.98, token_ban=[65]
    )
    pieces: list[str] = []
    pipeline.generate("In the", token_count=60, args=args, callback=pieces.append)
    ours = generate(
        bytes_model(),
        "In the",
        max_tokens=60,
        order="rwkv",
        temperature=1.2,
        top_p=0.7,
        frequency_penalty=0.4,
        presence_penalty=0.3,
        penalty_decay=0.98,
        banned_tokens=[65],
        seed=np.random.default_rng(4),
    )
    list(ours)
    theirs = [token for call in pipeline.model.calls[1:] for token in call]
    assert ours.tokens[:-1] == theirs


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("temperatur", "; did you mean 'temperature'?"),
        ("max_token", "; did you mean 'max_tokens'?"),
        ("paint", "; expected one of temperature, top_p"),
    ],
)
def test_unknown_options_name_generate_and_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"generate() got an unexpected option '{name}'{hint}")):
        generate(bytes_model(), "a", **{name: 1})


def test_swapped_arguments() -> None:
    with pytest.raises(ConfigError, match="generate: expected a model and then a text, got str and CountingModel"):
        generate("a", bytes_model())
