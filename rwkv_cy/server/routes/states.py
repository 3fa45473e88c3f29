"""``/v1/states``: states by name, made from texts, forked, saved and loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rwkv_cy.errors import RWKVError, StorageError
from rwkv_cy.model.state import State
from rwkv_cy.server.answering import read_state
from rwkv_cy.server.errors import ApiError, invalid, not_found, not_supported
from rwkv_cy.server.http import Context, Reply
from rwkv_cy.server.service import Service
from rwkv_cy.server.wire.chat import ChatRequest, conversation_of
from rwkv_cy.server.wire.common import new_id
from rwkv_cy.server.wire.states import ForkRequest, LoadRequest, SaveRequest

__all__ = ["delete", "fork", "listed", "load", "one", "save"]

_SUFFIX = ".state.h5"
#: Of states that are loaded but not written: tuned ones.
_SUFFIXES = (_SUFFIX, ".pth", ".safetensors")


async def listed(service: Service, context: Context, body: None) -> Reply:
    """List the states in memory, and those that are saved."""
    data = [_described(name, state) for name, state in service.states.items(context.owner)]
    return {"object": "list", "data": data, "saved": sorted(_saved(service, context))}


async def one(service: Service, context: Context, body: None) -> Reply:
    """Describe a state."""
    name = context.params["id"]
    return _described(name, service.states.get(context.owner, name))


async def load(service: Service, context: Context, body: LoadRequest) -> Reply:
    """Make a state from a text, from messages, or from a file."""
    service.check_model(body.model)
    given = [value is not None for value in (body.prompt, body.messages, body.saved)]
    if sum(given) != 1:
        raise invalid("prompt", "expected one of prompt, messages and saved")
    if body.saved is not None:
        state = await _read(service, context, body.saved)
    elif body.messages is not None:
        state = await read_state(service, context, await _tokens_of_messages(service, context, body))
    else:
        state = await read_state(service, context, await _tokens(service, body.prompt or ""))
    return _keep(service, context, body.id or body.saved, state)


async def fork(service: Service, context: Context, body: ForkRequest) -> Reply:
    """Copy a state; with a text, let the copy read it."""
    state = service.states.get(context.owner, context.params["id"])
    if body.prompt is not None:
        state = await read_state(service, context, await _tokens(service, body.prompt), state)
    else:
        state = state.copy()
    return _keep(service, context, body.id, state)


async def save(service: Service, context: Context, body: SaveRequest) -> Reply:
    """Write a state to the server's folder."""
    name = context.params["id"]
    state = service.states.get(context.owner, name)
    path = _path(service, context, body.saved or name)
    await asyncio.to_thread(path.parent.mkdir, exist_ok=True)
    try:
        await asyncio.to_thread(state.save, path, overwrite=body.overwrite)
    except StorageError as error:
        if path.exists() and not body.overwrite:
            message = f"saved: {body.saved or name!r} exists; set overwrite"
            raise ApiError(409, message, param="saved", code="state_exists") from error
        raise
    return {"id": name, "object": "state", "saved": body.saved or name}


async def delete(service: Service, context: Context, body: None) -> Reply:
    """Delete a state from memory, and what is saved under its name."""
    name = context.params["id"]
    folder = _folder(service, context)
    path = _path(service, context, name) if folder is not None and _is_name(name) else None
    is_saved = path is not None and path.exists()
    if service.states.has(context.owner, name):
        service.states.delete(context.owner, name)
    elif not is_saved:
        raise not_found("state", name, "state_not_found")
    if path is not None and is_saved:
        await asyncio.to_thread(path.unlink, missing_ok=True)
    return {"id": name, "object": "state.deleted", "deleted": True}


def _described(name: str, state: State) -> dict[str, Any]:
    return {"id": name, "object": "state", "bytes": state.nbytes, "fingerprint": state.fingerprint}


def _keep(service: Service, context: Context, name: str | None, state: State) -> dict[str, Any]:
    name = name or new_id("state_")
    service.keep_state(context.owner, name, state)
    return _described(name, state)


async def _tokens(service: Service, prompt: str | Sequence[Any]) -> list[int]:
    if isinstance(prompt, str):
        return await service.encode("prompt", prompt) if prompt else service.check_tokens("prompt", [])
    return service.check_tokens("prompt", prompt)


async def _tokens_of_messages(service: Service, context: Context, body: LoadRequest) -> list[int]:
    """Return the tokens of messages up to the end of the last one."""
    conversation = conversation_of(ChatRequest(messages=body.messages or []), "off")
    prompt = await service.prompt(conversation, service.partition(context, None))
    if not prompt.message_ends:
        raise invalid("messages", "expected a last message that is complete; end with one of the user")
    return prompt.tokens[: prompt.message_ends[-1]]


def _folder(service: Service, context: Context) -> Path | None:
    """Return the folder of an owner's states."""
    root = service.settings.state_folder
    return None if root is None else root / (context.owner or "all")


def _saved(service: Service, context: Context) -> dict[str, Path]:
    """Return the files of states by name: those of an owner, and those that are there for all."""
    root, own = service.settings.state_folder, _folder(service, context)
    if root is None or own is None:
        return {}
    found = {}
    for folder, suffixes in ((root, _SUFFIXES), (own, (_SUFFIX,))):
        for suffix in suffixes:
            found.update({path.name.removesuffix(suffix): path for path in folder.glob(f"*{suffix}")})
    return found


def _is_name(name: str) -> bool:
    return name.isascii() and 0 < len(name) <= 64 and name.replace("_", "").replace("-", "").isalnum()


def _path(service: Service, context: Context, name: str) -> Path:
    folder = _folder(service, context)
    if folder is None:
        raise not_supported("states: this server has no folder for them; start it with --state-folder")
    if not _is_name(name):
        raise invalid("saved", f"expected letters, digits, - and _, got {name[:80]!r}")
    return folder / f"{name}{_SUFFIX}"


async def _read(service: Service, context: Context, name: str) -> State:
    _path(service, context, name)  # is it a name?
    path = _saved(service, context).get(name)
    if path is None:
        raise not_found("saved state", name, "state_not_found", "saved")
    try:
        return await asyncio.to_thread(service.model.load_state, path)
    except RWKVError as error:
        message = f"saved: {name!r} does not fit: {str(error).replace(str(path), name)}"
        raise ApiError(409, message, param="saved") from error
