"""Messages of a conversation, the tools that it may call, and calls of them, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rwkv_cy.errors import ConfigError
from rwkv_cy.records import dataclass, field

__all__ = ["ROLES", "Conversation", "Message", "Tool", "ToolCall"]

#: Who may speak. ``developer`` is another word for ``system``, as in OpenAI's API.
ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool by the model.

    Attributes
    ----------
    id : str
        What the result refers to.
    name : str
        The tool.
    arguments : str
        A JSON object, as text.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes
    ----------
    name : str
    description : str
    parameters : mapping
        JSON schema of its arguments.
    strict : bool
        Whether the arguments must fit the schema: see :class:`rwkv_cy.chat.CallGrammar`.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    strict: bool = False


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes
    ----------
    role : str
        One of :data:`ROLES`.
    content : str
    reasoning : str
        What the model thought before it answered.
    calls : tuple of ToolCall
        The tools that an assistant's message calls.
    call_id : str
        The call that a tool's message answers.
    breakpoint : bool
        Whether the caller asks for a snapshot of the state after this message.

    Raises
    ------
    ConfigError
        If the role is unknown.
    """

    role: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    breakpoint: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigError(f"role: expected one of {', '.join(ROLES)}, got {self.role[:40]!r}")


@dataclass(frozen=True)
class Conversation:
    """What the model answers: messages, and the tools that it may call.

    Attributes
    ----------
    messages : sequence of Message
        If the last one is an assistant's without calls, the answer continues it.
    tools : sequence of Tool
    tool_choice : str
        ``"auto"``, ``"none"``, ``"required"``, or the name of the tool to call after ``"function:"``.
    parallel_calls : bool
        Whether an answer may have several calls.
    thinking : str
        ``"on"``, ``"fake"`` (an empty thought in the prompt), ``"off"``, or ``""`` for the format's own choice.
    effort : str
        How long to think: ``"low"``, ``"high"``, or ``""``; only with ``thinking="on"``.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: str = "auto"
    parallel_calls: bool = True
    thinking: str = ""
    effort: str = ""

    @property
    def callable_tools(self) -> Sequence[Tool]:
        """The tools that the answer may call."""
        if self.tool_choice == "none":
            return ()
        if self.tool_choice.startswith("function:"):
            return [tool for tool in self.tools if tool.name == self.tool_choice.removeprefix("function:")]
        return self.tools

    @property
    def must_call(self) -> bool:
        """Whether the answer has to be a call."""
        return self.tool_choice not in ("auto", "none")
