"""Calls that fit the schemas of their tools: a grammar restricts an answer from where it begins a call to its end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.chat.answers import AnswerParser
from rwkv_cy.chat.messages import Conversation, Tool
from rwkv_cy.errors import GenerationError
from rwkv_cy.text import Grammar, GrammarConstraint, Tokenizer
from rwkv_cy.text.grammars.grammar import schema_with_options

__all__ = ["CallConstraint", "CallGrammar", "needs_grammar"]

#: What a call begins with, and how that is written.
_BEGINNING = r'\s*\{\s*"name"\s*:'
_OPENING = '{"name":'
_ANY_OBJECT = {"type": "object"}


def needs_grammar(conversation: Conversation) -> bool:
    """Return whether calls have to fit a schema: that of the tool to call, or those of strict tools."""
    return conversation.must_call or any(tool.strict for tool in conversation.callable_tools)


class CallGrammar:
    """The calls that a conversation allows, compiled for a tokenizer. Needs llguidance.

    Arguments fit the schema of a tool that is strict or, where the answer must be a call, of every tool. A schema that
    is not supported is an error for a strict tool. For another, keywords that are not supported have no effect, and a
    schema that is not supported without them allows any object.

    Parameters
    ----------
    conversation : Conversation
    tokenizer : Tokenizer
    call_open : str
        What the prompt format writes before a call.
    max_schema_bytes : int
        Of each tool's schema.

    Raises
    ------
    GenerationError
        If a strict tool's schema is wrong, not supported or too large.
    MissingDependencyError
        If llguidance is not installed.
    """

    def __init__(
        self, conversation: Conversation, tokenizer: Tokenizer, call_open: str, max_schema_bytes: int = 1 << 16
    ) -> None:
        self._names = [tool.name for tool in conversation.callable_tools]
        self._must_call = conversation.must_call
        self._single = not conversation.parallel_calls or conversation.tool_choice.startswith("function:")
        self._tokenizer = tokenizer
        self._call_open = call_open
        self._schemas = [
            _schema_of(tool, tokenizer, max_schema_bytes, enforced=tool.strict or conversation.must_call)
            for tool in conversation.callable_tools
        ]
        self._calls = self._compiled("")

    def constraint(self, opening: str) -> CallConstraint:
        """Return a logits processor for one answer.

        Parameters
        ----------
        opening : str
            The beginning of the answer that is part of the prompt.
        """
        parser = AnswerParser(self._names, exact=True)
        parser.push(opening)
        constraint = CallConstraint(self._names, self._tokenizer, opening, calls=self._calls.copy, single=self._single)
        if self._must_call:
            begun = re.match(_BEGINNING, parser.call_text or "")
            if parser.call_text is not None and begun is not None:
                constraint.restrict(self._calls.copy(), parser.call_text[begun.end() :])
            else:
                beginning = ("</think>\n" if parser.reasoning else "") + self._call_open + _OPENING
                constraint.restrict(self._compiled(beginning), "")
        return constraint

    def _compiled(self, beginning: str) -> GrammarConstraint:
        try:
            return Grammar("lark", _rules(self._names, self._schemas, beginning)).constraint(self._tokenizer)
        except GenerationError as error:  # of all schemas together, as their size
            raise GenerationError(f"tools: {error}") from None


class CallConstraint:
    """A logits processor for one answer that may call tools. Text outside of calls is free.

    Parameters
    ----------
    tools : sequence of str
        Names of tools.
    tokenizer : Tokenizer
    opening : str
        The beginning of the answer that is part of the prompt.
    calls : callable, optional
        Returns a constraint of a call from its tool's name on; None: calls are free.
    single : bool, default False
        Whether the answer ends after a call.
    """

    def __init__(
        self,
        tools: Sequence[str],
        tokenizer: Tokenizer,
        opening: str,
        *,
        calls: Callable[[], GrammarConstraint] | None = None,
        single: bool = False,
    ) -> None:
        self._parser = AnswerParser(tools, exact=calls is not None)
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._calls = calls
        self._single = single
        self._read = 0
        self._active: GrammarConstraint | None = None
        self._head: list[int] = []  # tokens of the call's text before those of the answer from `_start` on
        self._start = 0
        self._refused = False  # whether the call in progress has begun in another way, and so is text
        # A block of JSON with a name is a call once that is the name of a tool.
        written = "|".join(re.escape(json.dumps(name, ensure_ascii=False)) for name in tools)
        self._beginning = re.compile(f"{_BEGINNING}(?= ?(?:{written}))")
        self._parser.push(opening)

    def restrict(self, call: GrammarConstraint, head: str) -> bool:
        """Restrict the next tokens to a call that begins with `head`; return whether that is possible."""
        tokens = self._tokenizer.encode_bytes(head.encode())
        try:
            if call.is_complete(tokens):
                return False
        except GenerationError:
            return False
        self._active, self._head, self._start = call, tokens, self._read
        return True

    def __call__(self, tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        """Set the logits of tokens that the call in progress does not allow to -inf.

        Parameters
        ----------
        tokens : sequence of int
            The answer so far, never shorter than in the call before.
        logits : float32 [vocab_size]

        Raises
        ------
        GenerationError
            If the text does not follow the grammar, or is too complex for it.
        """
        self._follow(tokens)
        if self._active is not None:
            self._active(self._own(tokens), logits)

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Return whether nothing follows `tokens`: the only call is complete."""
        self._follow(tokens)
        return self._single and self._parser.calls > 0 and self._parser.call_text is None

    def forced_tokens(self, tokens: Sequence[int]) -> Sequence[int]:
        """Return tokens that have to follow `tokens`."""
        self._follow(tokens)
        return () if self._active is None else self._active.forced_tokens(self._own(tokens))

    def _own(self, tokens: Sequence[int]) -> list[int]:
        return [*self._head, *tokens[self._start : self._read]]

    def _follow(self, tokens: Sequence[int]) -> None:
        for token in tokens[self._read :]:
            self._read += 1
            self._parser.push(self._stream.push(token))
            if self._active is None:
                self._enter()
            elif self._active.is_complete(self._own(tokens)):
                self._active = None

    def _enter(self) -> None:
        """Restrict what follows if the text has come to the beginning of a call."""
        text = self._parser.call_text
        self._refused = self._refused and text is not None
        if self._calls is None or text is None or self._refused:
            return
        found = self._beginning.match(text)
        if found is not None:
            self._refused = not self.restrict(self._calls(), text[found.end() :])


def _rules(names: Sequence[str], schemas: Sequence[Any], beginning: str) -> str:
    """Return the rules of a call, without `beginning` from behind the ``"name":`` on."""
    lines = [f"start: {'BEGINNING ' * bool(beginning)}({' | '.join(f'call_{i}' for i in range(len(names)))})"]
    if beginning:
        lines.append(f"BEGINNING: {_alternatives(beginning)}")
    for number, (name, schema) in enumerate(zip(names, schemas, strict=True)):
        head = f'{json.dumps(name, ensure_ascii=False)}, "arguments": '
        lines += [
            f'call_{number}: HEAD_{number} arguments_{number} "}}"',
            f"HEAD_{number}: {_alternatives(head)}",
            f"arguments_{number}: %json {json.dumps(schema)}",
        ]
    return "\n".join(lines)


def _alternatives(text: str) -> str:
    """Return the expression of a text with or without a space before it."""
    return " | ".join(json.dumps(each, ensure_ascii=False) for each in (text, " " + text))


def _schema_of(tool: Tool, tokenizer: Tokenizer, most: int, *, enforced: bool) -> Any:
    """Return the schema that the arguments of a tool are restricted to."""
    if not enforced or not tool.parameters:
        return schema_with_options(_ANY_OBJECT)
    schema = {**_ANY_OBJECT, **tool.parameters}
    try:
        size = len(json.dumps(schema))
        if size > most:
            raise GenerationError(f"expected at most {most} bytes, got {size}")
        if schema["type"] != "object":
            raise GenerationError(f"expected a schema of an object, got type {str(schema['type'])[:40]!r}")
        Grammar.json_schema(schema).constraint(tokenizer)
    except GenerationError as error:
        if tool.strict:
            raise GenerationError(f"tools: the schema of {tool.name[:80]!r}: {error}") from None
        return _lenient(schema, tokenizer, most)
    return schema_with_options(schema)


def _lenient(schema: Any, tokenizer: Tokenizer, most: int) -> Any:
    """Return a schema without the keywords that are not supported, or that of any object."""
    lenient = schema_with_options(schema, lenient=True)
    try:
        if len(json.dumps(schema)) <= most and schema["type"] == "object":
            Grammar("lark", f"start: %json {json.dumps(lenient)}").constraint(tokenizer)
            return lenient
    except GenerationError:
        pass
    return schema_with_options(_ANY_OBJECT)
