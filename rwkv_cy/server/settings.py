"""Settings of a server: names, limits, who may use it."""

from __future__ import annotations

from pathlib import Path

from rwkv_cy.records import dataclass, field

__all__ = ["Limits", "Settings"]


@dataclass(frozen=True)
class Limits:
    """What requests may cost.

    Attributes
    ----------
    body_bytes : int
        Of a request.
    body_seconds : float
        In which it must arrive.
    request_seconds : float
        In which its answer must be complete.
    queue : int
        Requests that wait for a slot.
    max_tokens : int
        Tokens of an answer, and the default where a client names none.
    prompt_tokens : int
        Tokens of a prompt.
    choices : int
        Answers to one request (`n`, and the prompts of a list).
    stops : int
        Stop strings of a request.
    schema_bytes : int
        Of a JSON schema or grammar.
    response_bytes : int
        Of the responses of a user that are kept for `previous_response_id`.
    text_bytes : int
        Of messages whose tokens are kept, so that a conversation is not encoded anew at each turn.
    state_bytes : int
        Of the named states of a user, in memory.
    """

    body_bytes: int = 8 << 20
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    queue: int = 64
    max_tokens: int = 4096
    prompt_tokens: int = 1 << 20
    choices: int = 128
    stops: int = 16
    schema_bytes: int = 64 << 10
    response_bytes: int = 32 << 20
    text_bytes: int = 32 << 20
    state_bytes: int = 256 << 20


@dataclass(frozen=True)
class Settings:
    """How a server presents itself, and to whom.

    Attributes
    ----------
    name : str
        Of the model, in the API.
    aliases : tuple of str
        Other names that requests may use.
    keys : tuple of str
        API keys; none for a server that everybody may use who reaches it.
    hosts : tuple of str or None
        Names that the Host header may have; None for any.
    origins : tuple of str
        Origins of pages that may use the API, with ``*`` for all; none by default.
    thinking : str
        The mode of thinking if a request names none; empty for the format's own.
    state_folder : Path or None
        Where states are saved.
    page : bool
        Whether the page to talk to the model is served.
    limits : Limits
    """

    name: str
    aliases: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] | None = None
    origins: tuple[str, ...] = ()
    thinking: str = ""
    state_folder: Path | None = None
    page: bool = True
    limits: Limits = field(default_factory=Limits)
