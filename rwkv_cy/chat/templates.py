"""Chat templates of other models, in Jinja's language, rendered by minijinja with limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rwkv_cy.chat.messages import Conversation, Message
from rwkv_cy.chat.prompts import Segment
from rwkv_cy.errors import ConfigError, FormatError, MissingDependencyError
from rwkv_cy.records import dataclass, field
from rwkv_cy.text import SamplingKeywords

__all__ = ["MAX_TEMPLATE", "TemplateFormat"]

#: Characters of a template, and steps of its program: for a conversation, and for each message.
MAX_TEMPLATE = 200_000
_FUEL = 50_000
_FUEL_PER_MESSAGE = 5_000
#: Message ends that are looked for, from the end: each costs a rendering.
_ENDS = 6


@dataclass(frozen=True)
class TemplateFormat:
    """A prompt format that is a template, as in ``tokenizer_config.json`` and GGUF files.

    Attributes
    ----------
    source : str
        The template.
    where : str
        The file that it comes from, for messages.
    specials : mapping of str to str
        ``bos_token`` and ``eos_token``.
    name : str
    stops : tuple of str
    call_open : str
        What is written before a call that is required: most templates are of models that were trained on this tag.
    sampling : SamplingKeywords
    """

    source: str
    where: str
    specials: Mapping[str, str] = field(default_factory=dict)
    name: str = "template"
    stops: tuple[str, ...] = ("\n\nUser:", "\n\nSystem:")
    call_open: str = "<tool_call>\n"
    sampling: SamplingKeywords = field(default_factory=lambda: SamplingKeywords(temperature=1.0, top_p=0.3, top_k=32))

    def __post_init__(self) -> None:
        if len(self.source) > MAX_TEMPLATE:
            raise FormatError(
                f"{self.where}: chat template: expected at most {MAX_TEMPLATE} characters, got {len(self.source)}"
            )

    def settings(self, thinking: str, tools: bool) -> SamplingKeywords:
        """Return the sampling settings, which do not depend on thinking or tools."""
        return self.sampling

    def segments(self, conversation: Conversation) -> tuple[list[Segment], str]:
        """Return the segments of a prompt, and the beginning of the answer that is in the last of them.

        Parameters
        ----------
        conversation : Conversation

        Raises
        ------
        ConfigError
            If the template refuses the messages.
        FormatError
            If it is not valid, or needs too many steps.
        MissingDependencyError
            If minijinja is not installed.
        """
        messages = list(conversation.messages)
        continued = bool(messages) and messages[-1].role == "assistant" and not messages[-1].calls
        asked = messages[:-1] if continued else messages
        text = self.render(conversation, asked, answer=True)
        cuts: dict[int, bool] = {}
        for count in range(max(1, len(asked) - _ENDS + 1), len(asked) + 1):
            part = self.render(conversation, asked[:count], answer=False)
            if part and text.startswith(part):
                cuts[len(part)] = asked[count - 1].breakpoint
        result, start = [], 0
        for end, explicit in sorted(cuts.items()):
            result.append(Segment(text[start:end], message_end=True, breakpoint=explicit))
            start = end
        result.append(Segment(text[start:]))
        if continued:
            return [*result, Segment(messages[-1].content.rstrip())], ""
        tail = text[start:]
        return result, tail[tail.rfind("<think") :] if "<think" in tail else ""

    def render(self, conversation: Conversation, messages: Sequence[Message], *, answer: bool) -> str:
        """Render messages.

        Parameters
        ----------
        conversation : Conversation
            Its tools, and whether the answer begins with thinking.
        messages : sequence of Message
        answer : bool
            Whether the beginning of the answer follows.
        """
        try:
            import minijinja
        except ImportError:
            raise MissingDependencyError(
                f"{self.where}: its chat template needs minijinja: pip install 'rwkv-cy[chat]', or choose another "
                "format (--format world)"
            ) from None
        environment = minijinja.Environment(
            fuel=_FUEL + _FUEL_PER_MESSAGE * len(conversation.messages), trim_blocks=True, lstrip_blocks=True
        )
        environment.add_filter("tojson", _to_json)
        environment.add_global("raise_exception", _refuse)
        try:
            return str(
                environment.render_str(
                    self.source,
                    messages=[_as_dict(message) for message in messages],
                    tools=[_tool_dict(tool) for tool in conversation.callable_tools] or None,
                    add_generation_prompt=answer,
                    enable_thinking=conversation.thinking == "on",
                    **self.specials,
                )
            )
        except ConfigError:
            raise
        except minijinja.TemplateError as error:
            if isinstance(error.__cause__, ConfigError):
                raise error.__cause__ from None
            raise FormatError(
                f"{self.where}: chat template: {str(error).splitlines()[0]}; choose another format (--format world)"
            ) from None


def _as_dict(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        result["reasoning_content"] = message.reasoning
    if message.call_id:
        result["tool_call_id"] = message.call_id
    if message.calls:
        result["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _object(call.arguments)}}
            for call in message.calls
        ]
    return result


def _object(text: str) -> Any:
    """Return the arguments of a call as an object, which templates expect; as they are, if they are not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _tool_dict(tool: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
    }


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Write JSON as transformers does: not escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise ConfigError(f"messages: the chat template refuses them: {str(message)[:200]}")
