"""Which prompt format a model has, and the prompt of a conversation in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rwkv_cy.chat.encoded_texts import EncodedTexts
from rwkv_cy.chat.formats import FORMATS, ChatFormat
from rwkv_cy.chat.messages import Conversation
from rwkv_cy.chat.prompts import Prompt, encode, segments
from rwkv_cy.chat.templates import TemplateFormat
from rwkv_cy.errors import ConfigError, FormatError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.formats.base import FileBytes
from rwkv_cy.formats.gguf.container import read_values
from rwkv_cy.formats.gguf.vocabulary import is_gguf
from rwkv_cy.storage import is_model_file, open_model
from rwkv_cy.text import Tokenizer

__all__ = ["AnyFormat", "build_prompt", "choose_format"]

AnyFormat = ChatFormat | TemplateFormat

_TEMPLATE, _TEMPLATE_FILE, _SETTINGS = "chat_template", "chat_template.jinja", "tokenizer_config.json"
_GGUF_TEMPLATE = "tokenizer.chat_template"
#: What GGUF files hold in place of a template, or at its beginning.
_WORLD_TEMPLATE = "rwkv-world"
#: Of files with a template: those of others have added tokens beside it.
_MAX_BYTES = 16 << 20
#: G1 in a name: rwkv7-g1d-0.1b, RWKV7-G1k-2.9B.
_G1 = re.compile(r"(?:^|[-_.])g[01][a-z]?\d?(?:[-_.]|$)", re.IGNORECASE)


def choose_format(path: str | os.PathLike[str], name: str = "auto") -> AnyFormat:
    """Return the prompt format of a model.

    Parameters
    ----------
    path : path-like
        The model: a file or a folder.
    name : str, default "auto"
        One of :data:`rwkv_cy.chat.FORMATS`, or the path of a Jinja template that ends in ``.jinja``. ``"auto"`` is the
        template in a GGUF file or a folder of transformers, if minijinja is installed; else the format that the
        model's name tells.

    Raises
    ------
    ConfigError
        If the name is unknown.
    FormatError
        If a template is too long, or the file that holds it is damaged.
    StorageError
        If a file cannot be read.
    """
    path = Path(path)
    if name != "auto":
        return _named(name)
    template, specials, where = _stored_template(path)
    if template is not None and _WORLD_TEMPLATE in template[:200]:
        template = None
    if template is not None and find_spec("minijinja") is not None:
        return TemplateFormat(template, str(where), specials)
    return FORMATS["g1" if _G1.search(_original_name(path)) else "world"]


def build_prompt(
    chat: AnyFormat, conversation: Conversation, tokenizer: Tokenizer | EncodedTexts, partition: str = ""
) -> Prompt:
    """Return the prompt of a conversation, as tokens.

    Parameters
    ----------
    chat : ChatFormat or TemplateFormat
    conversation : Conversation
    tokenizer : Tokenizer or EncodedTexts
        The latter encodes each message once.
    partition : str, default ""
        Of the encoded texts.

    Raises
    ------
    ConfigError
        If there are no messages, or the tool to call is not among the tools.
    TokenizerError
        If a text cannot be encoded.
    FormatError, MissingDependencyError
        If a template cannot be rendered.
    """
    if isinstance(chat, ChatFormat):
        parts, opening = segments(chat, conversation)
    else:
        parts, opening = chat.segments(conversation)
    sampling = chat.settings(conversation.thinking, bool(conversation.callable_tools))
    encode_text = (
        partial(tokenizer.encode, partition=partition) if isinstance(tokenizer, EncodedTexts) else tokenizer.encode
    )
    return encode(parts, encode_text, opening, chat.stops, sampling)


def _named(name: str) -> AnyFormat:
    if name in FORMATS:
        return FORMATS[name]
    if name.endswith(".jinja"):
        return TemplateFormat(_read(Path(name)).decode("utf-8", "replace"), name)
    raise ConfigError(f"format: expected auto, {', '.join(FORMATS)} or a .jinja file, got {name!r}")


def _stored_template(path: Path) -> tuple[str | None, Mapping[str, str], Path]:
    """Return the template that a model comes with, the special tokens that it names, and its file."""
    if path.is_dir():
        return _folder_template(path)
    if path.is_file() and not is_model_file(path) and is_gguf(path):
        with FileBytes(path) as file:
            value = read_values(file).get(_GGUF_TEMPLATE)
        return value if isinstance(value, str) else None, {}, path
    return None, {}, path


def _folder_template(path: Path) -> tuple[str | None, Mapping[str, str], Path]:
    settings_path, template_path = path / _SETTINGS, path / _TEMPLATE_FILE
    settings: Mapping[str, Any] = {}
    if settings_path.is_file():
        settings = parse_object(settings_path, "tokenizer_config", _read(settings_path), allow_nan=True)
    specials = {key: text for key in ("bos_token", "eos_token") if (text := _token_text(settings.get(key))) is not None}
    if template_path.is_file():
        return _read(template_path).decode("utf-8", "replace"), specials, template_path
    template = settings.get(_TEMPLATE)
    if isinstance(template, list):  # several with names
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None, specials, settings_path


def _read(path: Path) -> bytes:
    """Return the bytes of a small file."""
    with FileBytes(path) as file:
        if file.size > _MAX_BYTES:
            raise FormatError(f"{path}: expected at most {_MAX_BYTES} bytes, got {file.size}; choose a format by name")
        return file.read_at(0, file.size)


def _token_text(value: Any) -> str | None:
    """Return the text of a special token, which may be an object with its ``content``."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _original_name(path: Path) -> str:
    """Return the name of a model, with that of the checkpoint which a model file was converted from."""
    name = path.name
    if path.is_file() and is_model_file(path):
        with open_model(path) as source:
            name += " " + source.header.source.get("name", "")
    return name.replace(" ", "-")
