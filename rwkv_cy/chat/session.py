"""A chat: a conversation with one model, whose past is never read twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rwkv_cy.chat.answers import Answer, AnswerParser, Event
from rwkv_cy.chat.choice import AnyFormat, build_prompt
from rwkv_cy.chat.encoded_texts import EncodedTexts
from rwkv_cy.chat.formats import THINKING_MODES
from rwkv_cy.chat.history import StateHistory
from rwkv_cy.chat.messages import Conversation, Message
from rwkv_cy.chat.prompts import Prompt
from rwkv_cy.errors import ConfigError, GenerationError
from rwkv_cy.model.state import State
from rwkv_cy.records import replace
from rwkv_cy.text import Generation, SamplingKeywords, SamplingOptions, TextModel, generate
from rwkv_cy.text.start import resolve_tokenizer

__all__ = ["ChatSession", "Reply"]

#: Tokens that are read at once: an interrupt loses at most these.
_PART_TOKENS = 512
_MAX_BYTES = 1 << 30


class ChatSession:
    """A conversation with a model. The state after each message is kept: a turn reads only what is new.

    Parameters
    ----------
    model : TextModel
        For example a LanguageModel.
    chat : ChatFormat or TemplateFormat
        The prompt format; :func:`rwkv_cy.chat.choose_format` finds it.
    system : str, default ""
        The system message.
    thinking : str, default ""
        One of :data:`rwkv_cy.chat.THINKING_MODES`, or ``""`` for the format's own choice.
    sampling : SamplingKeywords, optional
        What replaces the format's sampling settings.
    max_tokens : int or None, default 2048
        Upper limit of an answer.
    seed : int, optional
        The same seed and the same questions give the same answers.
    state : State, optional
        State before the conversation, as a tuned one; not modified.
    max_bytes : int
        Most bytes of states that are kept.

    Attributes
    ----------
    messages : tuple of Message
        The conversation so far. An answer is added when it is complete or finished.

    Raises
    ------
    ConfigError
        If `thinking` is unknown.
    GenerationError
        If the model has no tokenizer, or an option is out of range.
    """

    def __init__(
        self,
        model: TextModel[State],
        chat: AnyFormat,
        *,
        system: str = "",
        thinking: str = "",
        sampling: SamplingKeywords | None = None,
        max_tokens: int | None = 2048,
        seed: int | None = None,
        state: State | None = None,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self.model = model
        self.chat = chat
        self.tokenizer = resolve_tokenizer(model, None)
        self.messages: tuple[Message, ...] = ()
        self.system = system
        self.thinking = thinking
        self.sampling: SamplingKeywords = sampling or {}
        SamplingOptions(**self.sampling)  # an error now, not at the first answer
        self.max_tokens = max_tokens
        self.seed = seed
        self.history = StateHistory(state, max_bytes)
        self._encoded = EncodedTexts(self.tokenizer)
        self.read_tokens = 0
        self._attempts = 0

    @property
    def system(self) -> str:
        """The system message, ``""`` for none; a change takes effect at the next answer, which reads all again."""
        return self.messages[0].content if self.messages and self.messages[0].role == "system" else ""

    @system.setter
    def system(self, text: str) -> None:
        rest = self.messages[1:] if self.system else self.messages
        self.messages = (Message("system", text), *rest) if text.strip() else rest

    @property
    def thinking(self) -> str:
        """The mode of thinking of the next answers."""
        return self._thinking

    @thinking.setter
    def thinking(self, mode: str) -> None:
        if mode not in ("", *THINKING_MODES):
            raise ConfigError(f"thinking: expected {', '.join(THINKING_MODES)}, got {mode[:40]!r}")
        self._thinking = mode

    def ask(self, text: str) -> Reply:
        """Return the answer to a message of the user, to iterate over."""
        return Reply(self, (*self.messages, Message("user", text)), 0)

    def regenerate(self) -> Reply:
        """Return another answer to the last message of the user.

        Raises
        ------
        ConfigError
            If there is none.
        """
        asked = self.messages[: self._last_question() + 1]
        return Reply(self, asked, self._attempts)

    def undo(self) -> Message:
        """Remove the last message of the user and its answer; return the message.

        Raises
        ------
        ConfigError
            If there is none.
        """
        place = self._last_question()
        removed = self.messages[place]
        self.messages, self._attempts = self.messages[:place], 0
        return removed

    def clear(self) -> None:
        """Begin a new conversation with the same system message."""
        self.messages, self._attempts = tuple(one for one in self.messages[:1] if one.role == "system"), 0

    def read_ahead(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Read the last answer as the format writes it in the past, which the next turn would read otherwise.

        Formats leave out thoughts, for example.

        Parameters
        ----------
        stopped : callable, optional
            Asked before each part of the text; reading ends if it is true.
        """
        prompt = self._past()
        if prompt is not None:
            self._read(prompt.tokens, prompt.message_ends[:-1], stopped)

    def past_tokens(self) -> list[int]:
        """Return the conversation as the format writes it before the next message of the user."""
        prompt = self._past()
        return prompt.tokens[: max(prompt.message_ends[:-1], default=0)] if prompt is not None else []

    def _past(self) -> Prompt | None:
        """Return the prompt with a further message of the user, whatever it is; None without any message."""
        if not self.messages:
            return None
        return build_prompt(self.chat, self._conversation((*self.messages, Message("user", "?"))), self._encoded)

    def _last_question(self) -> int:
        places = [place for place, message in enumerate(self.messages) if message.role == "user"]
        if not places:
            raise ConfigError("expected a message of the user in the conversation, found none; ask something first")
        return places[-1]

    def _conversation(self, messages: Sequence[Message]) -> Conversation:
        return Conversation(messages, thinking=self.thinking)

    def _read(self, tokens: list[int], ends: Sequence[int], stopped: Callable[[], bool]) -> None:
        """Read `tokens` up to the last of `ends`, and keep the state at each."""
        count, state = self.history.longest(tokens)
        for end in ends:
            if not count < end < len(tokens):
                continue
            while count < end:
                if stopped():
                    return
                part = tokens[count : min(end, count + _PART_TOKENS)]
                _, state = self.model.forward(part, state)
                count += len(part)
                self.read_tokens += len(part)
            assert state is not None
            self.history.add(tokens, count, state)

    def _start(self, messages: Sequence[Message], attempt: int) -> tuple[Generation[State], list[int], str]:
        """Read what is new of `messages`; return the generation of an answer, the prompt, and the opening."""
        prompt = build_prompt(self.chat, self._conversation(messages), self._encoded)
        self._read(prompt.tokens, prompt.message_ends, lambda: False)
        count, state = self.history.longest(prompt.tokens)
        turn = sum(message.role == "user" for message in messages)
        generation = generate(
            self.model,
            prompt.tokens[count:],
            state=state,
            max_tokens=self.max_tokens,
            seed=None if self.seed is None else np.random.default_rng([self.seed, turn, attempt]),
            stop=prompt.stops,
            options=replace(SamplingOptions(**prompt.sampling), **self.sampling),
        )
        self.read_tokens += len(prompt.tokens) - count
        return generation, prompt.tokens, prompt.opening

    def _commit(self, messages: Sequence[Message], attempt: int, answer: Answer) -> None:
        self.messages = (*messages, Message("assistant", answer.content, answer.reasoning))
        self._attempts = attempt + 1


class Reply(Iterator[Event]):
    """An answer of a :class:`ChatSession`. Iterating over it yields pieces of reasoning and content.

    The conversation has the question and the answer as soon as the iteration ends, or :meth:`finish` is called; before,
    and if neither happens, it is unchanged. An interrupt (Ctrl-C) loses nothing of the answer so far.

    Attributes
    ----------
    answer : Answer
        The answer so far.
    """

    def __init__(self, session: ChatSession, messages: Sequence[Message], attempt: int) -> None:
        self.answer = Answer()
        self._session = session
        self._messages = messages
        self._attempt = attempt
        self._parser = AnswerParser()
        self._events: deque[Event] = deque()
        self._generation: Generation[State] | None = None
        self._tokens: list[int] = []
        self._complete = False
        self._finished = False

    def __iter__(self) -> Reply:
        return self

    def __next__(self) -> Event:
        while not self._events:
            if self._complete:
                self.finish()
                raise StopIteration
            if self._generation is None:
                generation, self._tokens, opening = self._session._start(self._messages, self._attempt)
                self._take(self._parser.push(opening))
                self._generation = generation
            piece = next(self._generation, None)
            if piece is None:
                self._take(self._parser.finish())
                self._complete = True
            else:
                self._take(self._parser.push(piece))
        return self._events.popleft()

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, as for :class:`rwkv_cy.text.Generation`; None before."""
        return None if self._generation is None else self._generation.finish_reason

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens generated so far."""
        return () if self._generation is None else self._generation.tokens

    def finish(self) -> None:
        """End the answer here, and add it to the conversation; what was not read of it is ignored.

        Raises
        ------
        GenerationError
            If it has not begun.
        """
        if self._generation is None:
            raise GenerationError("finish: expected an answer that has begun; iterate over it first")
        if self._finished:
            return
        if not self._complete:
            self._take(self._parser.finish())
            self._complete = True
        self._finished = True
        self._session._commit(self._messages, self._attempt, self.answer)
        # The next prompt begins with these tokens, unless the format writes the answer in another way.
        tokens, state = [*self._tokens, *self._generation.tokens], self._generation.state
        if state is not None:
            self._session.history.add(tokens, len(tokens), state)

    def _take(self, events: list[Event]) -> None:
        self.answer.add(events)
        self._events.extend(events)
