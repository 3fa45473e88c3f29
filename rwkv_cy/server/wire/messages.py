"""Anthropic's messages: requests, and the objects of answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from rwkv_cy.chat import Answer, Conversation, Message, Tool, ToolCall
from rwkv_cy.engine import Usage
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.wire.common import SamplingFields

__all__ = ["CountRequest", "MessagesRequest", "content_blocks", "conversation_of", "stop_of", "usage_of"]

#: Reasons by those of OpenAI's API.
_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
#: How long to think for an `effort`; others are between.
_LENGTHS = {"low": "low", "high": "high", "xhigh": "high", "max": "high"}


class Block(msgspec.Struct):
    """A block of a message's content."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    cache_control: dict[str, Any] | None = None


class MessageIn(msgspec.Struct):
    """A message."""

    role: str
    content: str | list[Block]


class ToolIn(msgspec.Struct):
    """A tool."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None
    strict: bool | None = None


class OutputConfig(msgspec.Struct):
    """The form of the answer, and how long to think."""

    format: dict[str, Any] | None = None
    effort: str | None = None


class CountRequest(SamplingFields, kw_only=True):
    """A conversation whose tokens are counted."""

    messages: list[MessageIn]
    model: str = ""
    system: str | list[Block] | None = None
    tools: list[ToolIn] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """A request; fields that are not here have no effect."""

    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    stop_sequences: list[str] | None = None
    stream: bool | None = None


def conversation_of(request: CountRequest, thinking: str) -> Conversation:
    """Return the conversation of a request; `thinking` is the mode if it names none.

    Raises
    ------
    ApiError
        If a message or a tool is not one.
    """
    if not request.messages:
        raise invalid("messages", "expected at least one, got none")
    messages: list[Message] = []
    if request.system:
        text, explicit = _text("system", request.system)
        messages.append(Message("system", text, breakpoint=explicit))
    for place, message in enumerate(request.messages):
        _add(messages, f"messages[{place}]", message)
    tools = []
    for place, tool in enumerate(request.tools or ()):
        if tool.type not in (None, "custom"):
            raise invalid(f"tools[{place}].type", f"expected a tool with an input_schema, got {tool.type!r}")
        tools.append(Tool(tool.name, tool.description or "", tool.input_schema or {}, bool(tool.strict)))
    kind = (request.thinking or {}).get("type")
    mode = {"enabled": "on", "adaptive": "on", "disabled": "fake"}.get(str(kind), thinking)
    length = _LENGTHS.get(str(request.output_config.effort), "") if request.output_config else ""
    parallel = not (request.tool_choice or {}).get("disable_parallel_tool_use")
    return Conversation(messages, tools, _tool_choice(request.tool_choice), parallel, mode, length)


def content_blocks(answer: Answer) -> list[dict[str, Any]]:
    """Return the blocks of an answer."""
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if answer.content or not answer.calls:
        blocks.append({"type": "text", "text": answer.content})
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)}
        for call in answer.calls
    ]
    return blocks


def stop_of(reason: str | None, matched: str | int | None, sequences: list[str] | None) -> tuple[str, str | None]:
    """Return why an answer ended, and the stop sequence of the client that ended it."""
    if reason == "stop" and matched in (sequences or ()):
        return "stop_sequence", str(matched)
    return _REASONS[reason or "stop"], None


def usage_of(usage: Usage) -> dict[str, int]:
    """Return the object for tokens: those from the cache are not among the input tokens."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _add(messages: list[Message], param: str, message: MessageIn) -> None:
    """Add a message: results of tools are messages of their own."""
    if message.role not in ("user", "assistant"):
        raise invalid(f"{param}.role", f"expected user or assistant, got {message.role[:40]!r}")
    if isinstance(message.content, str):
        messages.append(Message(message.role, message.content))
        return
    texts, thoughts, calls, explicit = [], [], [], False
    for place, block in enumerate(message.content):
        where = f"{param}.content[{place}]"
        explicit = explicit or block.cache_control is not None
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type in ("thinking", "redacted_thinking"):
            thoughts.append(block.thinking or "")
        elif block.type == "tool_use":
            calls.append(ToolCall(block.id or "", block.name or "", json.dumps(block.input or {}, ensure_ascii=False)))
        elif block.type == "tool_result":
            text, _ = _text(f"{where}.content", block.content or "")
            messages.append(Message("tool", text, call_id=block.tool_use_id or "", breakpoint=explicit))
        else:
            raise invalid(f"{where}.type", f"expected text or a tool's use or result, got {block.type[:40]!r}")
    if texts or calls or not message.content:
        messages.append(Message(message.role, "".join(texts), "".join(thoughts), tuple(calls), breakpoint=explicit))


def _text(param: str, content: str | list[Block]) -> tuple[str, bool]:
    if isinstance(content, str):
        return content, False
    for place, block in enumerate(content):
        if block.type != "text":
            raise invalid(f"{param}[{place}].type", f"expected text, got {block.type[:40]!r}")
    return "".join(block.text or "" for block in content), any(block.cache_control is not None for block in content)


def _tool_choice(choice: Mapping[str, Any] | None) -> str:
    kind = "auto" if choice is None else choice.get("type")
    if kind == "tool" and choice is not None:
        return f"function:{choice.get('name')}"
    words = {"auto": "auto", "any": "required", "none": "none"}
    if kind not in words:
        raise invalid("tool_choice.type", f"expected auto, any, tool or none, got {str(kind)[:40]!r}")
    return words[str(kind)]


def _object(arguments: str) -> Any:
    """Return arguments as an object; what the model wrote instead of one is kept as text."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"text": arguments}
