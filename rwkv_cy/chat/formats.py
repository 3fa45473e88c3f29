"""Prompt formats of RWKV models, as a table: roles, how an answer begins and ends, tools, sampling settings."""

from __future__ import annotations

from collections.abc import Mapping

from rwkv_cy.records import dataclass, field
from rwkv_cy.text import SamplingKeywords

__all__ = ["FORMATS", "THINKING_MODES", "ChatFormat", "ToolStyle"]

#: Real thinking; an empty thought, already in the prompt; none.
THINKING_MODES = ("on", "fake", "off")


@dataclass(frozen=True)
class ToolStyle:
    """How tools are described, called and answered.

    Attributes
    ----------
    preamble : str
        Before the tools in the system message; each tool is then a line of JSON.
    may, must : str
        After the tools: if the model may answer without a call, and if it must call one.
    call_open, call_close : str
        Around the JSON object of a call.
    result : str
        Before the result of a call, in a message of the user.
    """

    preamble: str
    may: str
    must: str
    call_open: str
    call_close: str
    result: str


@dataclass(frozen=True)
class ChatFormat:
    """A prompt format in which turns are labelled paragraphs, ``User: …``, with a blank line between them.

    Attributes
    ----------
    name : str
    openings : mapping of str to str
        How an answer begins for each mode of thinking that the format has.
    thinking : str
        The mode if the caller chooses none.
    efforts : mapping of str to str
        What is appended to the user's last text for an effort of thinking.
    stops : tuple of str
        Strings before which an answer ends.
    sampling : mapping of str to SamplingKeywords
        The authors' settings for each mode of thinking, and for ``"tools"``.
    tools : ToolStyle
    labels : mapping of str to str
        The label of each role.
    free_answers : bool
        Whether answers may have blank lines, as in models that were trained with them.
    """

    name: str
    openings: Mapping[str, str]
    thinking: str
    stops: tuple[str, ...]
    sampling: Mapping[str, SamplingKeywords]
    tools: ToolStyle
    efforts: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(
        default_factory=lambda: {
            "system": "System",
            "developer": "System",
            "user": "User",
            "assistant": "Assistant",
            "tool": "User",
        }
    )
    free_answers: bool = True

    @property
    def call_open(self) -> str:
        """What is written before a call."""
        return self.tools.call_open

    def mode(self, thinking: str) -> str:
        """Return the mode of thinking to use for a requested one: the format's own if it does not have that."""
        return thinking if thinking in self.openings else self.thinking

    def settings(self, thinking: str, tools: bool) -> SamplingKeywords:
        """Return the sampling settings for a mode of thinking, with tools or without."""
        return self.sampling["tools" if tools else self.mode(thinking)]


_JSON_CALLS = ToolStyle(
    preamble="Tools:",
    may="To call a function, return only a JSON function call.",
    must="Return only a JSON function call.",
    call_open="```json\n",
    call_close="\n```",
    result="Function output:\n",
)
#: Turns of other roles, which a model sometimes writes itself after its answer.
_NEXT_TURNS = ("\n\nUser:", "\n\nSystem:")

_WORLD = ChatFormat(
    name="world",
    openings={"off": ""},
    thinking="off",
    stops=("\n\n",),
    sampling={
        "off": {
            "temperature": 1.0,
            "top_p": 0.3,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.5,
            "penalty_decay": 0.996,
        },
        "tools": {"temperature": 0.3, "top_p": 0.3},
    },
    tools=_JSON_CALLS,
    free_answers=False,
)

#: The unfinished tags are the authors': the model itself writes the rest of the token.
_G1 = ChatFormat(
    name="g1",
    openings={"on": " <think", "fake": " <think>\n</think", "off": ""},
    thinking="fake",
    efforts={"low": " (think a bit)", "high": " (think a lot)"},
    stops=_NEXT_TURNS,
    sampling={
        "on": {
            "temperature": 0.96,
            "top_p": 0.76,
            "top_k": 32,
            "presence_penalty": 1.0,
            "frequency_penalty": 0.1,
            "penalty_decay": 0.988,
        },
        "fake": {"temperature": 1.0, "top_p": 0.28, "top_k": 32},
        "off": {"temperature": 1.0, "top_p": 0.28, "top_k": 32},
        "tools": {"temperature": 0.96, "top_p": 0.76, "top_k": 32},
    },
    tools=_JSON_CALLS,
)

#: Formats by name.
FORMATS: Mapping[str, ChatFormat] = {chat.name: chat for chat in (_WORLD, _G1)}
