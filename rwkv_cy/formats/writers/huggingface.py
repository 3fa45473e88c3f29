"""Writer of Hugging Face folders: weights in shards, config.json, the tokenizer, and a model card.

The files have the names that transformers gives them. config.json is that of the layout's project
(:mod:`rwkv_cy.formats.layouts.configs`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from rwkv_cy.errors import ConfigError
from rwkv_cy.formats.layouts.configs import config_problems, huggingface_config
from rwkv_cy.formats.shards import MAX_SHARDS
from rwkv_cy.formats.writers.base import ExportedModel, ExportFormat, Outcome, StoredTensor, TargetFile
from rwkv_cy.formats.writers.hub_tokenizer import tokenizer_files
from rwkv_cy.formats.writers.model_card import model_card
from rwkv_cy.formats.writers.safetensors import safetensors_file
from rwkv_cy.units import byte_size

__all__ = ["HuggingFaceFormat"]

#: torch's names of the types.
_DTYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class HuggingFaceFormat(ExportFormat):
    """A folder that ``from_pretrained`` loads."""

    name = "huggingface"
    label = "Hugging Face folder"
    layouts = ("transformers", "fla")
    folder = True
    stores_tokenizer = True

    def files(self, model: ExportedModel, tensors: Sequence[StoredTensor]) -> Sequence[TargetFile]:
        """Return the weights, their index if there are several files, and the settings."""
        vocabulary = model.vocabulary
        end_of_text = 0 if vocabulary is None else vocabulary.end_of_text
        special = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
        dtype = _main_type(tensors)
        config = huggingface_config(model.layout, model.config, model.shapes, dtype)
        config |= {**special, "torch_dtype": _DTYPES[dtype]}
        return (
            *_weights(tensors, model.shard_size),
            _json("config.json", dict(sorted(config.items()))),
            _json("generation_config.json", {**special, "pad_token_id": end_of_text}),
            *(() if vocabulary is None else tokenizer_files(vocabulary)),
        )

    def problems(self, model: ExportedModel) -> Iterator[str]:
        """Yield what the project's code cannot do with the model."""
        return config_problems(model.layout, model.config, model.shapes)

    def notes(self, model: ExportedModel, tensors: Sequence[StoredTensor], outcome: Outcome) -> Mapping[str, bytes]:
        """Return the model card."""
        return {"README.md": model_card(model, tensors, outcome).encode()}


def _main_type(tensors: Sequence[StoredTensor]) -> str:
    """Return the type of the head, which is that of all matrices."""
    return next(tensor.type.name for tensor in tensors if tensor.kind == "head")


def _weights(tensors: Sequence[StoredTensor], shard_size: int) -> Iterator[TargetFile]:
    shards: list[list[StoredTensor]] = []
    left = 0
    for tensor in tensors:
        if not shards or tensor.nbytes > left:
            shards.append([])
            left = shard_size
        shards[-1].append(tensor)
        left -= tensor.nbytes
    if len(shards) == 1:
        yield safetensors_file(_SINGLE, tensors)
        return
    if len(shards) > MAX_SHARDS:
        raise ConfigError(
            f"shard size: expected at most {MAX_SHARDS} files of weights, got {len(shards)} of "
            f"{byte_size(shard_size)}; choose a larger size"
        )
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        yield safetensors_file(name, shard)
    weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(tensor.nbytes for tensor in tensors)
    yield _json(_INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _json(name: str, value: Mapping[str, object]) -> TargetFile:
    return TargetFile.of_bytes(name, (json.dumps(value, indent=2) + "\n").encode())
