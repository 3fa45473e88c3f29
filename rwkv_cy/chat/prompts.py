"""Prompts: a conversation as token ids, with the places where messages end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence

from rwkv_cy.chat.formats import ChatFormat, ToolStyle
from rwkv_cy.chat.messages import Conversation, Message, Tool, ToolCall
from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass, replace
from rwkv_cy.text import SamplingKeywords

__all__ = ["Prompt", "Segment", "encode", "segments"]

_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt that is encoded on its own, so that its tokens do not depend on what follows.

    Attributes
    ----------
    text : str
    message_end : bool
        Whether a message ends with it.
    breakpoint : bool
        Whether the caller asks for a snapshot of the state after it.
    """

    text: str
    message_end: bool = False
    breakpoint: bool = False


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it answers.

    Attributes
    ----------
    tokens : list of int
    message_ends : tuple of int
        Numbers of tokens after which a message ends: other conversations may share the prompt up to there.
    breakpoints : tuple of int
        Those after which the caller asks for a snapshot.
    opening : str
        The end of the prompt that is the beginning of the answer: a parser of the answer reads it first.
    stops : tuple of str
    sampling : SamplingKeywords
        The format's settings.
    """

    tokens: list[int]
    message_ends: tuple[int, ...]
    breakpoints: tuple[int, ...]
    opening: str
    stops: tuple[str, ...]
    sampling: SamplingKeywords


def segments(chat: ChatFormat, conversation: Conversation) -> tuple[list[Segment], str]:
    """Return the segments of a prompt, and the beginning of the answer, which is in the last of them.

    Parameters
    ----------
    chat : ChatFormat
    conversation : Conversation

    Raises
    ------
    ConfigError
        If there are no messages, or the tool to call is not among the tools.
    """
    messages = list(conversation.messages)
    if not messages:
        raise ConfigError("messages: expected at least one, got none")
    tools = conversation.callable_tools
    forced = conversation.must_call
    if forced and not tools:
        raise ConfigError(f"tool_choice: expected one of the tools, got {conversation.tool_choice[:80]!r}")
    if tools:
        messages = _with_tools(messages, tools, chat.tools, forced)
    mode = chat.mode(conversation.thinking)
    if mode == "on" and conversation.effort in chat.efforts:
        messages = _with_effort(messages, chat.efforts[conversation.effort])
    last = messages[-1]
    continued = last.role == "assistant" and not last.calls
    result = [
        part for message in (messages[:-1] if continued else messages) for part in _message_segments(chat, message)
    ]
    label = chat.labels["assistant"] + ":"
    if continued:
        text = _clean(last.content, keep_blank_lines=chat.free_answers)
        return [*result, Segment(label), Segment(f" {text}" if text else "")], ""
    opening = _call_opening(chat.tools, conversation.tool_choice) if forced else chat.openings[mode]
    return [*result, Segment(label + opening)], opening


def encode(
    parts: Iterable[Segment],
    encode_text: Callable[[str], Sequence[int]],
    opening: str,
    stops: Sequence[str],
    sampling: SamplingKeywords,
) -> Prompt:
    """Encode segments.

    Parameters
    ----------
    parts : iterable of Segment
    encode_text : callable
        Returns the tokens of a text.
    opening : str
        The beginning of the answer.
    stops : sequence of str
    sampling : SamplingKeywords

    Raises
    ------
    TokenizerError
        If a text cannot be encoded.
    """
    tokens: list[int] = []
    ends, explicit = [], []
    for part in parts:
        tokens += encode_text(part.text) if part.text else []
        if part.message_end:
            ends.append(len(tokens))
        if part.breakpoint:
            explicit.append(len(tokens))
    return Prompt(tokens, tuple(ends), tuple(explicit), opening, tuple(stops), sampling)


def _message_segments(chat: ChatFormat, message: Message) -> list[Segment]:
    label = chat.labels[message.role] + ":"
    if message.role == "assistant":
        text = _clean(message.content, keep_blank_lines=chat.free_answers)
        calls = "\n".join(_call_text(chat.tools, call) for call in message.calls)
        body = "\n".join(filter(None, (text, calls)))
        # The label is a segment of its own: the model has read it alone before it generated the rest.
        return [
            Segment(label),
            Segment(f" {body}\n\n" if body else "\n\n", message_end=True, breakpoint=message.breakpoint),
        ]
    result = chat.tools.result if message.role == "tool" else ""
    body = result + _clean(message.content, keep_blank_lines=False)
    text = f"{label} {body}\n\n" if body else f"{label}\n\n"
    return [Segment(text, message_end=True, breakpoint=message.breakpoint)]


def _call_text(style: ToolStyle, call: ToolCall) -> str:
    return f'{style.call_open}{{"name": {_json(call.name)}, "arguments": {call.arguments}}}{style.call_close}'


def _clean(text: str, *, keep_blank_lines: bool) -> str:
    """Strip a text; make one newline of several, since a blank line separates turns."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return text if keep_blank_lines else _BLANK_LINES.sub("\n", text)


def _with_tools(messages: Sequence[Message], tools: Sequence[Tool], style: ToolStyle, forced: bool) -> list[Message]:
    """Describe the tools in the first system message, or in a new one."""
    described = (
        {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)} for tool in tools
    )
    lines = "\n".join([style.preamble, *map(_json, described), style.must if forced else style.may])
    first = messages[0]
    if first.role in ("system", "developer"):
        return [replace(first, content=f"{first.content}\n{lines}"), *messages[1:]]
    return [Message("system", lines), *messages]


def _with_effort(messages: Sequence[Message], suffix: str) -> list[Message]:
    """Append the words that set the length of thinking to the last text of the user."""
    result = list(messages)
    for place in range(len(result) - 1, -1, -1):
        if result[place].role == "user":
            result[place] = replace(result[place], content=result[place].content.rstrip() + suffix)
            break
    return result


def _call_opening(style: ToolStyle, choice: str) -> str:
    """Return the beginning of an answer that is a call: of a named tool, or of any."""
    if choice.startswith("function:"):
        return f' {style.call_open}{{"name": {_json(choice.removeprefix("function:"))}, "arguments":'
    return f' {style.call_open}{{"name":'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
