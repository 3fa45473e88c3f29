"""Chats: what is read, what is kept, and that a chat that went back equals one that never went forth."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.chat import FORMATS, ChatSession, Conversation, Message, build_prompt, load_chat, save_chat
from rwkv_cy.chat.history import StateHistory
from rwkv_cy.chat.session import Reply
from rwkv_cy.errors import ConfigError, FormatError, GenerationError, StorageError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.state import State


@pytest.fixture(scope="module")
def model(kjv_checkpoint: Path) -> LanguageModel:
    return load(kjv_checkpoint)


def make(model: LanguageModel, name: str = "world", **options: object) -> ChatSession:
    return ChatSession(model, FORMATS[name], **{"max_tokens": 24, "seed": 5} | options)  # type: ignore[arg-type]


def text_of(reply: Reply) -> str:
    for _ in reply:
        pass
    return f"{reply.answer.reasoning}|{reply.answer.content}"


def talk(session: ChatSession, questions: Iterable[str]) -> list[str]:
    return [text_of(session.ask(question)) for question in questions]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("thinking", ["", "on"])
def test_answers_are_those_of_the_whole_prompt_read_anew(model: LanguageModel, name: str, thinking: str) -> None:
    session = make(model, name, system="Be brief.", thinking=thinking)
    for turn, question in enumerate(("Who?", "Where?\n\nWhen?", "Why?"), 1):
        messages = (*session.messages, Message("user", question))
        prompt = build_prompt(session.chat, Conversation(messages, thinking=thinking), session.tokenizer)
        reply = session.ask(question)
        text_of(reply)
        generation = model.generate(
            prompt.tokens,
            max_tokens=24,
            stop=prompt.stops,
            seed=np.random.default_rng([5, turn, 0]),
            **prompt.sampling,
        )
        assert "".join(generation) == generation.text
        assert reply.tokens == generation.tokens


def test_a_turn_reads_only_what_is_new(model: LanguageModel) -> None:
    session = make(model)
    talk(session, ["In the beginning " * 40, "And then?"])
    before = session.read_tokens
    session.read_ahead()
    ahead, before = session.read_tokens - before, session.read_tokens
    assert ahead < 40
    talk(session, ["Who?"])
    assert session.read_tokens - before == len("User: Who?\n\nAssistant:")


def test_undo_and_another_question_equal_a_chat_that_asked_it_at_once(model: LanguageModel) -> None:
    session = make(model)
    talk(session, ["Who?", "Where?"])
    assert session.undo() == Message("user", "Where?")
    before = session.read_tokens
    answers = talk(session, ["When?"])
    assert session.read_tokens - before < 60  # not the first turn again
    fresh = make(model)
    assert answers == talk(fresh, ["Who?", "When?"])[1:]
    assert session.messages == fresh.messages


def test_another_answer_is_reproducible_and_takes_the_place_of_the_first(model: LanguageModel) -> None:
    session, fresh = make(model), make(model)
    first, *_ = talk(session, ["Who?"])
    second, third = text_of(session.regenerate()), text_of(session.regenerate())
    assert len({first, second, third}) == 3
    talk(fresh, ["Where?"])
    fresh.undo()
    assert [*talk(fresh, ["Who?"]), text_of(fresh.regenerate()), text_of(fresh.regenerate())] == [first, second, third]
    assert session.messages == fresh.messages
    assert len(session.messages) == 2
    greedy = make(model, sampling={"temperature": 0})
    assert talk(greedy, ["Who?"]) == [text_of(greedy.regenerate())]


def test_an_answer_that_was_stopped_is_part_of_the_chat(model: LanguageModel) -> None:
    session = make(model)
    reply = session.ask("Who?")
    next(reply), next(reply)
    assert session.messages == ()
    reply.finish()
    assert session.messages == (Message("user", "Who?"), Message("assistant", reply.answer.content))
    assert len(reply.answer.content) >= 2
    reply.finish()
    assert len(session.messages) == 2
    fresh = make(model)
    fresh.messages = session.messages
    assert talk(session, ["Where?"]) == talk(fresh, ["Where?"])


def test_an_answer_that_is_dropped_leaves_the_chat_as_it_was(model: LanguageModel) -> None:
    session = make(model)
    talk(session, ["Who?"])
    before = session.messages
    next(session.ask("Where?"))
    assert session.messages == before
    with pytest.raises(GenerationError, match="expected an answer that has begun"):
        session.ask("Where?").finish()


def test_system_thinking_and_new_chats(model: LanguageModel) -> None:
    session = make(model, "g1")
    talk(session, ["Who?"])
    session.system = "Be kind."
    assert [one.role for one in session.messages] == ["system", "user", "assistant"]
    session.system = "Be brief."
    assert (session.system, len(session.messages)) == ("Be brief.", 3)
    session.clear()
    assert session.messages == (Message("system", "Be brief."),)
    session.system = ""
    assert session.messages == ()
    session.read_ahead()
    session.thinking = "on"
    assert session.thinking == "on"
    with pytest.raises(ConfigError, match="thinking: expected on, fake, off, got 'maybe'"):
        session.thinking = "maybe"
    for empty in (make(model).undo, make(model).regenerate):
        with pytest.raises(ConfigError, match="expected a message of the user"):
            empty()


def test_a_state_before_the_chat(model: LanguageModel) -> None:
    state = model.initial_state()
    _, state = model.forward(list(b"Thus saith the LORD. "), state)
    copy = state.copy()
    assert talk(make(model, state=state), ["Who?"]) != talk(make(model), ["Who?"])
    assert state == copy


def test_a_saved_chat_goes_on_without_reading(model: LanguageModel, tmp_path: Path) -> None:
    session, path = make(model, system="Be brief."), tmp_path / "chat.json"
    talk(session, ["Who?", "Where?"])
    session.undo()
    save_chat(session, path)
    other = make(model)
    assert load_chat(other, path)
    assert other.messages == session.messages
    assert talk(other, ["When?"]) == talk(session, ["When?"])
    assert other.read_tokens == len("User: When?\n\nAssistant:")
    with pytest.raises(StorageError, match="already exists"):
        save_chat(session, path)
    save_chat(session, path, overwrite=True)
    assert len(json.loads(path.read_text())["messages"]) == 5


@pytest.mark.parametrize("damage", ["missing", "cut", "tokens", "base", "text"])
def test_a_saved_chat_without_a_state_that_fits_is_read_again(
    model: LanguageModel, tmp_path: Path, damage: str
) -> None:
    session, path = make(model), tmp_path / "chat.json"
    talk(session, ["Who?"])
    save_chat(session, path)
    state = tmp_path / "chat.json.state"
    document = json.loads(path.read_text())
    if damage == "missing":
        state.unlink()
    elif damage == "cut":
        state.write_bytes(state.read_bytes()[:1000])
    elif damage == "tokens":
        document["state"]["tokens"] = 1 << 70
    elif damage == "base":
        document["state"]["base"] = "0"
    else:
        document["messages"][0]["content"] = "Whom?"
    path.write_text(json.dumps(document))
    other = make(model)
    if damage == "tokens":
        with pytest.raises(FormatError, match="integer"):
            load_chat(other, path)
        return
    assert not load_chat(other, path)
    assert text_of(other.ask("Where?"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "chat"),
        ("{}", "expected a saved chat, rwkv-cy/chat/1, got 'None'"),
        ('{"schema": "rwkv-cy/chat/1"}', "message 0: expected an object"),
        (
            '{"schema": "rwkv-cy/chat/1", "messages": [{"role": "tool", "content": ""}]}',
            "message 0: expected an object",
        ),
        ('{"schema": "rwkv-cy/chat/1", "messages": [{"role": "user", "content": 1}]}', "message 0: expected an object"),
    ],
)
def test_a_file_that_is_not_a_saved_chat(model: LanguageModel, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    session = make(model)
    with pytest.raises(FormatError, match=message):
        load_chat(session, path)
    assert session.messages == ()
    if text == "{}":
        with pytest.raises(StorageError, match="is not a saved chat"):
            save_chat(session, path, overwrite=True)
        assert path.read_text() == text


def test_the_oldest_states_are_dropped(model: LanguageModel) -> None:
    state: State = model.initial_state()
    history: StateHistory[State] = StateHistory(None, 2 * state.nbytes)
    for count in (2, 4, 6):
        history.add([1, 2, 3, 4, 5, 6], count, state)
    assert len(history) == 2
    assert history.longest([1, 2, 3, 4, 5, 6, 7]) == (6, state)
    assert history.longest([1, 2, 3, 4, 5, 6]) == (4, state)  # the last token is read for its logits
    assert history.longest([1, 2, 3, 9]) == (0, None)
    history.add([1, 2, 3, 4, 9], 5, state)
    assert history.longest([1, 2, 3, 4, 5, 6, 7])[0] == 4
