"""OpenAI's chat completions: requests, and the objects of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from rwkv_cy.chat import Conversation, Message, ToolCall
from rwkv_cy.chat.answers import Answer, CallDelta, CallStart, Event
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.wire.common import Function, Natural, Part, SamplingFields, joined_text, read_tool_choice

__all__ = ["ChatRequest", "conversation_of", "delta_of", "message_object", "thinking_of"]

#: What a `reasoning_effort` means: a mode of thinking, and its length.
_EFFORTS = {
    "none": ("off", ""),
    "minimal": ("fake", ""),
    "low": ("on", "low"),
    "medium": ("on", ""),
    "high": ("on", "high"),
    "xhigh": ("on", "high"),
}


class CalledFunction(msgspec.Struct):
    """The function that a call in an earlier message named."""

    name: str
    arguments: str = ""


class CallIn(msgspec.Struct):
    """A call in an earlier message."""

    function: CalledFunction
    id: str = ""


class MessageIn(msgspec.Struct):
    """A message."""

    role: str
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallIn] | None = None
    tool_call_id: str | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None


class ToolIn(msgspec.Struct):
    """A tool."""

    type: str
    function: Function | None = None


class StreamOptions(msgspec.Struct):
    """What a stream holds beside the answer."""

    include_usage: bool | None = None


class Prediction(msgspec.Struct):
    """What the answer will probably be: speculation tries it first."""

    content: str | list[Part]
    type: str = "content"


class ChatRequest(SamplingFields, kw_only=True):
    """A request; fields that are not here have no effect. Beyond OpenAI's: `return_progress`, `return_timings`."""

    messages: list[MessageIn]
    model: str = ""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_tokens: Natural | None = None
    max_completion_tokens: Natural | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    tools: list[ToolIn] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    response_format: dict[str, Any] | None = None
    prediction: Prediction | None = None
    return_progress: bool = False
    return_timings: bool = False


def conversation_of(request: ChatRequest, thinking: str) -> Conversation:
    """Return the conversation of a request; `thinking` is the mode if it names none.

    Raises
    ------
    ApiError
        If a message or a tool is not one.
    """
    if not request.messages:
        raise invalid("messages", "expected at least one, got none")
    messages = [_message(place, message) for place, message in enumerate(request.messages)]
    tools = [_function(place, tool).tool() for place, tool in enumerate(request.tools or ())]
    mode, effort = thinking_of("reasoning_effort", request.reasoning_effort, thinking)
    choice, parallel = read_tool_choice(request.tool_choice), request.parallel_tool_calls is not False
    return Conversation(messages, tools, choice, parallel, mode, effort)


def thinking_of(param: str, effort: str | None, default: str) -> tuple[str, str]:
    """Return the mode of thinking, and how long to think, for a `reasoning_effort`."""
    if effort is None:
        return default, ""
    if effort not in _EFFORTS:
        raise invalid(param, f"expected one of {', '.join(_EFFORTS)}, got {effort[:40]!r}")
    return _EFFORTS[effort]


def message_object(answer: Answer) -> dict[str, Any]:
    """Return the message of an answer."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if answer.calls and not answer.content else answer.content,
        "refusal": None,
    }
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    return message


def delta_of(event: Event) -> dict[str, Any]:
    """Return the delta of a piece of an answer: a call's id and name once, then pieces of its arguments."""
    if isinstance(event, CallStart):
        function = {"name": event.name, "arguments": ""}
        return {"tool_calls": [{"index": event.index, "id": event.id, "type": "function", "function": function}]}
    if isinstance(event, CallDelta):
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
    return {"reasoning_content" if event.kind == "reasoning" else "content": event.text}


def _message(place: int, message: MessageIn) -> Message:
    param = f"messages[{place}]"
    text, explicit = joined_text(f"{param}.content", message.content)
    role = "tool" if message.role == "function" else message.role
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise invalid(f"{param}.role", f"expected system, developer, user, assistant or tool, got {role[:40]!r}")
    return Message(
        role,
        text,
        message.reasoning_content or "",
        _calls(message.tool_calls or ()),
        message.tool_call_id or "",
        explicit or message.prompt_cache_breakpoint is not None,
    )


def _calls(calls: Sequence[CallIn]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call.id, call.function.name, call.function.arguments or "{}") for call in calls)


def _function(place: int, tool: ToolIn) -> Function:
    if tool.type != "function" or tool.function is None:
        raise invalid(f"tools[{place}].type", f"expected a function, got {tool.type[:40]!r}")
    return tool.function
