"""OpenAI's responses: requests, and the objects of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from rwkv_cy.chat import Conversation, Message, Tool, ToolCall
from rwkv_cy.engine import Usage
from rwkv_cy.records import replace
from rwkv_cy.server.errors import invalid
from rwkv_cy.server.wire.chat import thinking_of
from rwkv_cy.server.wire.common import Part, SamplingFields, joined_text, read_tool_choice

__all__ = ["ResponseRequest", "conversation_of", "response_object", "response_usage"]

_ROLES = ("system", "developer", "user", "assistant")


class Item(msgspec.Struct):
    """An item of the input: a message, a call, or the result of one."""

    type: str = "message"
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class ToolIn(msgspec.Struct):
    """A tool, without an object around its function."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct):
    """The form of the answer."""

    format: dict[str, Any] | None = None


class Reasoning(msgspec.Struct):
    """How long to think."""

    effort: str | None = None
    summary: str | None = None


class ResponseRequest(SamplingFields, kw_only=True):
    """A request; fields that are not here have no effect."""

    input: str | list[Item]
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    background: bool | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tools: list[ToolIn] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer has log-probabilities."""
        return "message.output_text.logprobs" in (self.include or ())


def conversation_of(request: ResponseRequest, earlier: Sequence[Message], thinking: str) -> Conversation:
    """Return the conversation of a request: what came before it, and its input, without its instructions.

    Raises
    ------
    ApiError
        If an item or a tool is not one.
    """
    messages = list(earlier)
    if isinstance(request.input, str):
        messages.append(Message("user", request.input))
    else:
        for place, item in enumerate(request.input):
            _add(messages, f"input[{place}]", item)
    if not messages:
        raise invalid("input", "expected at least one item, got none")
    tools = [_tool(place, tool) for place, tool in enumerate(request.tools or ())]
    effort = request.reasoning.effort if request.reasoning else None
    mode, length = thinking_of("reasoning.effort", effort, thinking)
    choice, parallel = read_tool_choice(request.tool_choice), request.parallel_tool_calls is not False
    return Conversation(messages, tools, choice, parallel, mode, length)


def response_object(
    request: ResponseRequest, head: Mapping[str, Any], status: str, output: Sequence[Mapping[str, Any]], **more: Any
) -> dict[str, Any]:
    """Return the object of a response.

    Parameters
    ----------
    request : ResponseRequest
    head : mapping
        Its ``id``, ``created_at`` and ``model``.
    status : str
    output : sequence of mapping
        Its items.
    **more
        Other fields, ``usage`` among them.
    """
    tools = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": bool(tool.strict),
        }
        for tool in request.tools or ()
    ]
    return {
        **head,
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "output": list(output),
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
        "store": request.store is not False,
        "temperature": request.temperature,
        "text": {"format": (request.text and request.text.format) or {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": tools,
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": request.user,
        **more,
    }


def response_usage(usage: Usage, reasoning: int) -> dict[str, Any]:
    """Return the object for tokens that were read and generated."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage.total_tokens,
    }


def _add(messages: list[Message], param: str, item: Item) -> None:
    """Add an item to the messages: calls belong to the assistant's message before them."""
    if item.type == "message":
        if item.role not in _ROLES:
            raise invalid(f"{param}.role", f"expected one of {', '.join(_ROLES)}, got {str(item.role)[:40]!r}")
        text, explicit = joined_text(f"{param}.content", item.content)
        messages.append(Message(str(item.role), text, breakpoint=explicit))
    elif item.type == "function_call":
        if not item.name or not item.call_id:
            raise invalid(param, "expected a function_call with a name and a call_id")
        call = ToolCall(item.call_id, item.name, item.arguments or "{}")
        if messages and messages[-1].role == "assistant":
            messages[-1] = replace(messages[-1], calls=(*messages[-1].calls, call))
        else:
            messages.append(Message("assistant", calls=(call,)))
    elif item.type == "function_call_output":
        text, _ = joined_text(f"{param}.output", item.output)
        messages.append(Message("tool", text, call_id=item.call_id or ""))
    elif item.type != "reasoning":  # which is not part of a prompt
        raise invalid(f"{param}.type", f"expected message, function_call or its output, got {item.type[:40]!r}")


def _tool(place: int, tool: ToolIn) -> Tool:
    if tool.type != "function" or not tool.name:
        raise invalid(f"tools[{place}].type", f"expected a function with a name, got {tool.type[:40]!r}")
    return Tool(tool.name, tool.description or "", tool.parameters or {}, bool(tool.strict))
