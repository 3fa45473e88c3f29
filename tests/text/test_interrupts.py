"""A generation that is interrupted: nothing is lost, or it says that it cannot go on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import random_model
from rwkv_cy.errors import ConfigError, GenerationError, StateError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text.generate import generate
from rwkv_cy.text.tokenizers import ByteTokenizer

PROMPT, TOKENS = "In the", 12


class StoppedError(Exception):
    pass


def stop_at(count: int, error: type[BaseException]) -> Callable[..., None]:
    """Return a hook that raises at its call number `count`, from 1 on."""
    calls = []

    def hook(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == count:
            raise error

    return hook


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return random_model(vocab_size=256)


def started(model: LanguageModel, **arguments: Any) -> Any:
    return generate(model, PROMPT, tokenizer=ByteTokenizer(), max_tokens=TOKENS, seed=3, **arguments)


def spoil(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, count: int, error: type[BaseException]) -> None:
    """Let call number `count` of the encoder write half of a state, and raise."""
    run, hook = model.encoder.run, stop_at(count, error)

    def interrupted(xs: Any, reads: Any, writes: Any, *arguments: Any, **named: Any) -> None:
        try:
            hook()
        except BaseException:
            writes[0][: len(writes[0]) // 2 + 1] = 7.0
            raise
        run(xs, reads, writes, *arguments, **named)

    monkeypatch.setattr(model.encoder, "run", interrupted)


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError])
@pytest.mark.parametrize("count", [1, 2, 5, TOKENS])
def test_an_interrupt_of_the_model_loses_nothing(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, count: int, error: type[BaseException]
) -> None:
    expected = started(model)
    text = "".join(expected)
    generation = started(model)
    with monkeypatch.context() as patch:
        spoil(model, patch, count, error)
        with pytest.raises(error):
            list(generation)
    # One token comes of each call of the model.
    assert len(generation.tokens) == count - 1
    assert generation.tokens == expected.tokens[: count - 1]
    read = [*generation.prompt, *generation.tokens]
    logits, state = model.forward(read)
    assert generation.state == state
    assert generation.logits.tobytes() == logits.tobytes()
    list(generation)
    assert generation.text == text
    assert generation.tokens == expected.tokens
    assert generation.state == expected.state


def test_a_signal_within_the_model(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = started(model)
    text = "".join(expected)
    generation = started(model)
    run, calls = model.encoder.run, []

    def signalled(*arguments: Any, **named: Any) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        run(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(model.encoder, "run", signalled)
        with pytest.raises(KeyboardInterrupt):
            list(generation)
    assert generation.text == text[: len(generation.text)]
    list(generation)
    assert (generation.text, generation.state) == (text, expected.state)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_exception_of_a_logits_processor_loses_nothing(model: LanguageModel, count: int) -> None:
    expected = started(model, frequency_penalty=0.5)
    text = "".join(expected)
    hook = stop_at(count, StoppedError)

    def processor(tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        hook()

    generation = started(model, frequency_penalty=0.5, logits_processors=[processor])
    with pytest.raises(StoppedError):
        list(generation)
    assert generation.tokens == expected.tokens[: count - 1]
    assert generation.state == model.forward([*generation.prompt, *generation.tokens])[1]
    list(generation)
    assert (generation.text, generation.tokens, generation.state) == (text, expected.tokens, expected.state)


def test_states_that_were_given_away_are_not_overwritten(model: LanguageModel) -> None:
    """Two states take turns, but for those that somebody else has."""
    _, first = model.forward([1, 2])
    before = first.copy()
    generation = started(model, state=first)
    kept = []
    for _ in generation:
        state = generation.state
        kept.append((state, state.copy()))
    assert first == before
    assert len({id(state) for state, _ in kept}) == len(kept)
    assert all(state == copy for state, copy in kept)


def test_two_states_take_turns(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    forward = model.forward

    def seen(tokens: Any, state: Any = None, *, out: Any = None) -> Any:
        given.append(out)
        return forward(tokens, state, out=out)

    monkeypatch.setattr(model, "forward", seen)
    list(started(model))
    assert given[:2] == [None, None]
    assert len({id(state) for state in given[2:]}) == 2


class BrokenTokenizer(ByteTokenizer):
    """A tokenizer whose stream fails at its third token."""

    def stream(self) -> Any:
        stream, hook = super().stream(), stop_at(3, KeyboardInterrupt)
        push = stream.push

        def interrupted(token: int) -> str:
            hook()
            return push(token)

        stream.push = interrupted  # type: ignore[method-assign]
        return stream


def test_a_text_that_does_not_agree_with_its_tokens_cannot_go_on(model: LanguageModel) -> None:
    generation = generate(model, PROMPT, tokenizer=BrokenTokenizer(), max_tokens=TOKENS, seed=3)
    with pytest.raises(KeyboardInterrupt):
        list(generation)
    with pytest.raises(GenerationError, match="an earlier call was interrupted as it added one; generate anew"):
        list(generation)
    # The state is that of the tokens all the same.
    assert len(generation.tokens) == 3
    assert generation.state == model.forward([*generation.prompt, *generation.tokens])[1]


# --- forward(out=) ---


def test_a_state_to_write_to(model: LanguageModel) -> None:
    _, state = model.forward([1, 2, 3])
    before, spare = state.copy(), model.initial_state()
    expected, after = model.forward([4, 5], state)
    logits, same = model.forward([4, 5], state, out=spare)
    assert same is spare
    assert logits.tobytes() == expected.tobytes()
    assert (state, spare) == (before, after)
    _, same = model.forward([4, 5], state, out=state)
    assert same is state
    assert state == after


def test_a_state_that_a_failed_call_wrote_to_may_be_written_again(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, state = model.forward([1, 2, 3])
    before, spare = state.copy(), model.initial_state()
    with monkeypatch.context() as patch:
        spoil(model, patch, 1, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            model.forward([4], state, out=spare)
    assert state == before
    with pytest.raises(StateError, match="expected a complete state"):
        model.forward([4], spare)
    _, same = model.forward([4], state, out=spare)
    assert same is spare
    assert spare == model.forward([4], state)[1]
    assert model.forward([5], spare)[0].tobytes() == model.forward([5], spare.copy())[0].tobytes()


def test_a_state_to_write_to_that_does_not_fit(model: LanguageModel) -> None:
    other = random_model(d_model=16, vocab_size=256)
    with pytest.raises(StateError, match="out: expected one of a rwkv4 model"):
        model.forward([1], out=other.initial_state())
    with pytest.raises(StateError, match="out: expected a State or None, got dict"):
        model.forward([1], out={})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="out: expected one of in_place and out, got both"):
        model.forward([1], model.initial_state(), in_place=True, out=model.initial_state())
