"""The plugin for ``llm``: models of this package as its models and embedding models, under names of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from rwkv_cy.chat import ChatSession, Message, TextDelta, choose_format
from rwkv_cy.demo import demo_model_path
from rwkv_cy.errors import ConfigError, FormatError, MissingDependencyError, RWKVError
from rwkv_cy.files.strict_json import parse_object
from rwkv_cy.hub_names import is_hub_name
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.text import SamplingKeywords

try:
    import click
    import llm
    from llm.parts import StreamEvent
except ImportError as error:
    raise MissingDependencyError(f'llm is needed ({error}): pip install "rwkv-cy[llm]"') from None

__all__ = [
    "RWKVEmbeddingModel",
    "RWKVModel",
    "register_commands",
    "register_embedding_models",
    "register_models",
]

_DEMO = "rwkv-cy-demo"
_TYPES = {"content": "text", "reasoning": "reasoning"}


class _Loaded:
    """A model file, loaded when it is first used."""

    def __init__(self, path: str, dtype: str | None = None) -> None:
        self.path = path
        self.dtype = dtype

    @cached_property
    def model(self) -> LanguageModel:
        return load(self.path, dtype=self.dtype)

    @cached_property
    def session(self) -> ChatSession:
        return ChatSession(self.model, choose_format(self.path))


class RWKVModel(llm.Model):
    """A model to talk to. A further turn of a conversation in the same process reads only what is new.

    Parameters
    ----------
    name : str
        Its name in llm.
    loaded : _Loaded
        The file.
    """

    can_stream = True

    class Options(llm.Options):
        """Options of ``llm -o``; those that are not given follow the model's format."""

        max_tokens: int | None = None
        temperature: float | None = None
        top_p: float | None = None
        top_k: int | None = None
        seed: int | None = None
        thinking: str | None = None

    def __init__(self, name: str, loaded: _Loaded) -> None:
        self.model_id = name
        self._loaded = loaded

    def __str__(self) -> str:
        return f"rwkv-cy: {self.model_id}"

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[Any]:
        """Yield the answer, in pieces: of text, and of thoughts apart from it."""
        try:
            session = self._loaded.session
            session.messages, question = _past(prompt.messages)
            given = {name: value for name, value in prompt.options.model_dump().items() if value is not None}
            session.max_tokens, session.seed = given.pop("max_tokens", 2048), given.pop("seed", None)
            session.thinking = given.pop("thinking", "")
            session.sampling = cast(SamplingKeywords, given)
            before = session.read_tokens
            reply = session.ask(question)
            for event in reply:
                if isinstance(event, TextDelta):
                    yield StreamEvent(type=_TYPES[event.kind], chunk=event.text)
            response.set_usage(input=session.read_tokens - before, output=len(reply.tokens))
        except RWKVError as error:
            raise llm.ModelError(str(error)) from error


def _past(messages: Iterable[Any]) -> tuple[tuple[Message, ...], str]:
    """Return the messages before the last, and its text."""
    past = [Message(one.role, "".join(getattr(part, "text", "") or "" for part in one.parts)) for one in messages]
    if not past or past[-1].role != "user":
        raise ConfigError("prompt: expected a message of the user at the end")
    return tuple(past[:-1]), past[-1].content


class RWKVEmbeddingModel(llm.EmbeddingModel):
    """Vectors of texts: hidden states averaged over their tokens, of length 1.

    Parameters
    ----------
    name : str
        Its name in llm.
    loaded : _Loaded
        The file.
    """

    def __init__(self, name: str, loaded: _Loaded) -> None:
        self.model_id = name
        self._loaded = loaded

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:
        """Yield the vector of each text."""
        for vector in self._loaded.model.embed(list(items), normalize=True):
            yield vector.tolist()


def _file() -> Path:
    return Path(llm.user_dir()) / "rwkv-cy.json"


def _registered() -> dict[str, dict[str, Any]]:
    """Return path and dtype of each model that the user has added, by name."""
    path = _file()
    if not path.exists():
        return {}
    models = parse_object(path, "models", path.read_bytes())
    if not all(isinstance(entry, Mapping) and isinstance(entry.get("path"), str) for entry in models.values()):
        raise FormatError(f"{path}: expected a path for each model; remove the file, and add the models again")
    return {name: dict(entry) for name, entry in models.items()}


def _models() -> dict[str, _Loaded]:
    files = {name: _Loaded(entry["path"], entry.get("dtype")) for name, entry in _registered().items()}
    return {_DEMO: _Loaded(str(demo_model_path())), **files}


@llm.hookimpl
def register_models(register: Any) -> None:
    """Add the demo model and those of ``llm rwkv-cy add``."""
    for name, loaded in _models().items():
        register(RWKVModel(name, loaded))


@llm.hookimpl
def register_embedding_models(register: Any) -> None:
    """Add the same models for embeddings."""
    for name, loaded in _models().items():
        register(RWKVEmbeddingModel(name, loaded))


@llm.hookimpl
def register_commands(cli: Any) -> None:
    """Add ``llm rwkv-cy add``, ``remove`` and ``list``."""

    @cli.group(name="rwkv-cy")
    def group() -> None:
        """Models of rwkv-cy."""

    @group.command()
    @click.argument("name")
    @click.argument("path")
    @click.option("--dtype", help="convert the matrices to this type in memory, such as q8")
    def add(name: str, path: str, dtype: str | None) -> None:
        """Add the model at PATH, or hf:owner/name/file, as NAME."""
        where = path if is_hub_name(path) else str(Path(path).resolve())
        try:
            load(where).close()
        except RWKVError as error:
            raise click.ClickException(str(error)) from error
        _write({**_registered(), name: {"path": where, "dtype": dtype}})

    @group.command()
    @click.argument("name")
    def remove(name: str) -> None:
        """Remove NAME; the file stays."""
        models = _registered()
        if models.pop(name, None) is None:
            raise click.ClickException(f"{name}: expected one of {', '.join(models) or 'no models'}")
        _write(models)

    @group.command(name="list")
    def list_models() -> None:
        """List the models that were added."""
        for name, entry in _registered().items():
            click.echo(f"{name}: {entry['path']}")


def _write(models: Mapping[str, Mapping[str, Any]]) -> None:
    _file().write_text(json.dumps(models, indent=2) + "\n", "utf-8")
