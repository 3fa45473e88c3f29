"""Chats in files: the messages as JSON, and beside them the state that has read them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_cy.chat.messages import Message
from rwkv_cy.chat.session import ChatSession
from rwkv_cy.errors import FormatError, RWKVError, StorageError
from rwkv_cy.files.reading import FileBytes, new_file_path
from rwkv_cy.files.replacement import Replacement
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.model.state import State

__all__ = ["load_chat", "save_chat"]

_SCHEMA = "rwkv-cy/chat/1"
#: Longer conversations than any model reads.
_MAX_BYTES = 64 << 20
_ROLES = ("system", "user", "assistant")


def save_chat(session: ChatSession, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a conversation to `path`, as JSON, and its state to ``path.state``, so that it goes on without reading.

    Parameters
    ----------
    session : ChatSession
    path : path-like
    overwrite : bool, default False
        Whether a saved chat may be replaced. A file of another kind is never replaced.

    Raises
    ------
    StorageError
        If the file exists and may not be replaced, or the operating system refuses access.
    """
    path = new_file_path(path)
    if overwrite and path.is_file():
        _check_chat(path)
    document: dict[str, Any] = {
        "schema": _SCHEMA,
        "format": session.chat.name,
        "thinking": session.thinking,
        "messages": [
            {"role": one.role, "content": one.content} | ({"reasoning": one.reasoning} if one.reasoning else {})
            for one in session.messages
        ],
    }
    session.read_ahead()
    tokens = session.past_tokens()
    count, state = session.history.longest([*tokens, 0])
    if count and state is not None:
        document["state"] = {
            "tokens": count,
            "sha256": _token_digest(tokens[:count]),
            "base": _state_digest(session.history.base),
        }
        state.save(_state_path(path), overwrite=overwrite)
    with Replacement(path, overwrite=overwrite) as file:
        file.write_at(0, json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "surrogateescape") + b"\n")
        file.commit()


def load_chat(session: ChatSession, path: str | os.PathLike[str]) -> bool:
    """Continue a saved conversation in `session`; tell whether its state fits, so that nothing has to be read again.

    Parameters
    ----------
    session : ChatSession
        Unchanged after an error. Its format, sampling settings and model stay.
    path : path-like
        A file of :func:`save_chat`.

    Raises
    ------
    FormatError
        If the file is not a saved chat.
    StorageError
        If the operating system refuses access.
    """
    path = Path(path)
    document = _document(path)
    messages = _messages(path, document.get("messages"))
    thinking = document.get("thinking")
    before = session.messages, session.thinking
    try:
        session.messages = messages
        session.thinking = thinking if isinstance(thinking, str) else ""
        tokens = session.past_tokens()
    except BaseException:
        session.messages, session.thinking = before
        raise
    return _restore(session, path, document.get("state"), tokens)


def _restore(session: ChatSession, path: Path, about: object, tokens: list[int]) -> bool:
    """Give the session the state beside `path`, if it is that of the same model, beginning and tokens."""
    count = about.get("tokens") if isinstance(about, dict) else None
    if not isinstance(about, dict) or not isinstance(count, int) or not 0 < count <= len(tokens):
        return False
    if about.get("sha256") != _token_digest(tokens[:count]):
        return False
    if about.get("base") != _state_digest(session.history.base):
        return False
    try:
        state = State.load(_state_path(path))
        # A state of another model is refused here, before the conversation depends on it.
        session.model.forward(tokens[:1], state)
    except RWKVError:
        return False
    session.history.add(tokens, count, state)
    return True


def _document(path: Path) -> dict[str, Any]:
    with FileBytes(path) as file:
        if file.size > _MAX_BYTES:
            raise FormatError(f"{path}: expected a saved chat of at most {_MAX_BYTES} bytes, got {file.size}")
        document = parse_object(path, "chat", file.read_at(0, file.size))
    if document.get("schema") != _SCHEMA:
        found = str(document.get("schema"))[:40]
        raise FormatError(f"{path}: expected a saved chat, {_SCHEMA}, got {found!r}; name a file that /save wrote")
    return document


def _messages(path: Path, values: object) -> tuple[Message, ...]:
    messages = []
    for place, value in enumerate(values if isinstance(values, list) else [values]):
        fields = value if isinstance(value, dict) else {}
        role, content, reasoning = fields.get("role"), fields.get("content"), fields.get("reasoning", "")
        if role not in _ROLES or not isinstance(content, str) or not isinstance(reasoning, str):
            raise FormatError(
                f"{path}: message {place}: expected an object with a role of {', '.join(_ROLES)} and a content, got "
                f"{str(value)[:60]!r}"
            )
        messages.append(Message(role, content, reasoning))
    return tuple(messages)


def _check_chat(path: Path) -> None:
    """Raise StorageError if `path` is a file with content that is not a saved chat."""
    try:
        if path.stat().st_size:
            _document(path)
    except FormatError:
        raise StorageError(f"{path} is not a saved chat; choose another name") from None


def _state_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.state")


def _token_digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(tokens, dtype="<i8").tobytes()).hexdigest()


def _state_digest(state: State | None) -> str:
    return "" if state is None else hashlib.sha256(state.data.tobytes()).hexdigest()
