"""The models that people use: where they are on the hub, and their sizes, computed from their dimensions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from rwkv_cy.architectures import architecture_of
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.config import Config
from rwkv_cy.errors import HubError
from rwkv_cy.hub_names import HubName
from rwkv_cy.records import asdict, dataclass
from rwkv_cy.tensors.policy import choose
from rwkv_cy.tensors.tensor import ParameterSource, TensorInfo

__all__ = ["KnownModel", "find_known_model", "known_models", "search_known_models"]

_TABLE = Path(__file__).with_name("known_models.json")
#: Types for which the memory needed is computed.
_PRECISIONS = ("f32", "bf16", "q8", "q6", "q4")
#: The type in which all of them are published; those of float16 have the same size.
_PUBLISHED = "bf16"
#: The authors' way to write a size: 1B5 is 1.5b.
_BILLIONS = re.compile(r"(?<![\d.])(\d+)b(\d)(?!\d)")
#: A size in a short name, or as people ask for one.
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bm])")
_SIMILARITY = 0.7


@dataclass(frozen=True)
class KnownModel:
    """A published model.

    Attributes
    ----------
    name : str
        Short name, as ``"rwkv7-g1-0.1b"``.
    title : str
        What it is.
    repository, file : str
        Where it is on the hub.
    config : Config
        Its dimensions.
    tokenizer : str
        What ``tokenizer=`` takes: ``"world"``, or the name of a file on the hub.
    context : int or None
        Tokens of the longest texts that it was trained with.
    file_bytes : int or None
        Size of the file, where it is known to the byte.
    """

    name: str
    title: str
    repository: str
    file: str
    config: Config
    tokenizer: str
    context: int | None
    file_bytes: int | None

    @property
    def hub_name(self) -> HubName:
        """The name by which commands take it."""
        return HubName(self.repository, self.file)

    @property
    def version(self) -> str:
        """The version of RWKV, for people."""
        return architecture_of(self.config).label

    @cached_property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(count * info.size for count, _, info in self._kinds)

    @property
    def size(self) -> int:
        """Bytes of the file; without `file_bytes`, those of its parameters."""
        return self.file_bytes or sum(count * info.nbytes for count, _, info in self._kinds)

    @cached_property
    def memory(self) -> Mapping[str, int]:
        """Bytes of the parameters in memory, by storage type; tables are read from the file row by row."""
        kinds = [(count, spec, info) for count, spec, info in self._kinds if spec.kind != "table"]
        return {
            dtype: sum(count * _bytes_as(dtype, spec, info) for count, spec, info in kinds) for dtype in _PRECISIONS
        }

    @cached_property
    def _kinds(self) -> tuple[tuple[int, ParameterSpec, TensorInfo], ...]:
        """How many parameters there are of each kind and shape, with one of them."""
        groups: dict[tuple[object, ...], list[ParameterSpec]] = {}
        for spec in architecture_of(self.config).parameters(self.config):
            if spec.kind != "state":
                groups.setdefault((spec.kind, spec.stored_transposed, spec.shape), []).append(spec)
        return tuple((len(specs), specs[0], _described(specs[0])) for specs in groups.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "hub_name": str(self.hub_name),
            **{key: value for key, value in asdict(self).items() if key not in ("name", "title", "config")},
            "version": self.version,
            "config": self.config.to_dict(),
            "num_parameters": self.num_parameters,
            "size": self.size,
            "memory": dict(self.memory),
        }


class _Description:
    """Stands for the file of a published model where only a tensor's description is needed."""

    def __init__(self, info: TensorInfo) -> None:
        self._info = info

    def info(self, name: str) -> TensorInfo:
        """Return the description; there is one."""
        return self._info


def _bytes_as(dtype: str, spec: ParameterSpec, info: TensorInfo) -> int:
    """Return the bytes of one parameter in memory, when loaded in a type."""
    return choose(cast(ParameterSource, _Description(info)), spec, dtype).info.nbytes


def _described(spec: ParameterSpec) -> TensorInfo:
    return TensorInfo(spec.name, spec.shape, _PUBLISHED, spec.name, _PUBLISHED, 0)


def known_models() -> tuple[KnownModel, ...]:
    """Return the published models that the package knows, newest versions first.

    Returns
    -------
    tuple of KnownModel
    """
    table = json.loads(_TABLE.read_text("utf-8"))
    return tuple(_model({**family, **entry}) for family in table["families"] for entry in family["models"])


def _model(entry: Mapping[str, Any]) -> KnownModel:
    config = Config(
        architecture=entry["architecture"],
        num_layers=entry["layers"],
        d_model=entry["d_model"],
        d_ffn=entry.get("d_ffn", 0),
        vocab_size=entry["vocab_size"],
        ranks=entry.get("ranks", {}),
    )
    return KnownModel(
        name=f"{entry['family']}-{entry['size']}",
        title=entry["title"],
        repository=entry["repository"],
        file=entry["file"],
        config=architecture_of(config).complete(config),
        tokenizer=entry["tokenizer"],
        context=entry.get("context"),
        file_bytes=entry.get("file_bytes"),
    )


def find_known_model(text: str) -> KnownModel:
    """Return the known model that a short name means; parts of the name are enough if only one model has them all.

    Raises
    ------
    HubError
        If none has this name, or several do.
    """
    models = known_models()
    wanted = _words(text)
    exact = [model for model in models if _words(model.name) == wanted]
    found = exact or [model for model in models if set(wanted) <= set(_words(model.name))]
    if len(found) == 1:
        return found[0]
    if not found or not wanted:
        raise HubError(
            f"{text or repr(text)}: not a known model; {_nearest(models, text)}rwkv-cy models lists them, and any "
            "other is named as hf:OWNER/NAME"
        )
    names = ", ".join(model.name for model in found)
    raise HubError(
        f"{text}: expected the short name of one model, got a part of the names {names}; name one of them",
        [(model.name, model.size) for model in found],
    )


def _words(name: str) -> list[str]:
    """Return the parts of a short name, in one spelling."""
    name = _BILLIONS.sub(r"\1.\2b", name.lower()).replace("rwkv-", "rwkv")
    return [word for word in re.split(r"[^a-z0-9.]+", name) if word]


def search_known_models(words: Sequence[str]) -> list[KnownModel]:
    """Return the known models that have every word in their name, title, version or place on the hub.

    A size is a whole one, and one without decimals stands for those that round to it: ``"13b"`` finds 13.3b, and
    ``"3b"`` finds 2.9b and 3b, not 13.3b.

    Raises
    ------
    HubError
        If none has them all; the message says which words may have been meant.
    """
    models = known_models()
    wanted = [_BILLIONS.sub(r"\1.\2b", word.lower()) for word in words]
    found = [model for model in models if all(_has_word(model, word) for word in wanted)]
    if not found:
        raise HubError(
            f"no known model matches {' '.join(words)!r}; {_meant(models, wanted)}rwkv-cy models lists all of them"
        )
    return found


def _has_word(model: KnownModel, word: str) -> bool:
    asked = _SIZE.fullmatch(word)
    if asked is None:
        return word in f"{model.name} {model.title} {model.version} {model.hub_name}".lower()
    sizes = filter(None, map(_SIZE.fullmatch, _words(model.name)))
    return any(
        size[2] == asked[2]
        and (size[1] == asked[1] or ("." not in asked[1] and round(float(size[1])) == int(asked[1])))
        for size in sizes
    )


def _meant(models: Sequence[KnownModel], words: Sequence[str]) -> str:
    """Return what to say of the words that no model has, or nothing if each alone finds some."""
    unknown = [word for word in words if not any(_has_word(model, word) for model in models)]
    if not unknown:
        return "each word alone matches some; "
    parts = list(dict.fromkeys(part for model in models for part in (model.name, *_words(model.name))))
    if _SIZE.fullmatch(unknown[0]):
        sizes = sorted(filter(_SIZE.fullmatch, parts), key=_parameters)
        return f"sizes are {', '.join(sizes)}; "
    meant = get_close_matches(unknown[0], parts, 1, _SIMILARITY)
    return f"did you mean {meant[0]}? " if meant else ""


def _nearest(models: Sequence[KnownModel], text: str) -> str:
    meant = get_close_matches(text.lower(), [model.name for model in models], 1, _SIMILARITY)
    return f"did you mean {meant[0]}? " if meant else ""


def _parameters(size: str) -> float:
    return float(size[:-1]) * (1000 if size.endswith("b") else 1)
