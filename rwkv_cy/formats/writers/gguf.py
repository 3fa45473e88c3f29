"""Writer of GGUF files as llama.cpp loads them: all metadata that it needs, the vocabulary, and the tensors.

Source: github.com/ggml-org/llama.cpp, conversion/base.py and conversion/rwkv.py (what is written), src/llama-vocab.cpp
and src/models (what is read).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError
from rwkv_cy.files.blocks import Block
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import ENCODERS
from rwkv_cy.formats.gguf.container import ALIGNMENT
from rwkv_cy.formats.gguf.encode import (
    TypedValue,
    encode_header,
    float32,
    int32_array,
    string,
    string_array,
    uint32,
)
from rwkv_cy.formats.gguf.vocabulary import (
    CONTROL,
    END_OF_TEXT,
    MODEL,
    NO_VOCABULARY,
    NORMAL,
    RWKV,
    TOKEN_TYPES,
    TOKENS,
    UNUSED,
    escaped,
)
from rwkv_cy.formats.layouts.gguf import GGUF_ARCHITECTURES
from rwkv_cy.formats.writers.base import (
    FLOAT_TYPES,
    ExportedModel,
    ExportFormat,
    ExportTensor,
    ReadTensor,
    StoredTensor,
    StoredType,
    TargetFile,
    Vocabulary,
)
from rwkv_cy.formats.writers.ggml_types import block_type

__all__ = ["GgufFormat"]

#: The type of most matrices, as ``general.file_type`` numbers it.
_FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q4_k": 14,
    "q5_k": 16,
    "q6_k": 18,
    "bf16": 32,
}
#: The types of blocks, and what takes the place of one whose blocks rows are not a whole number of.
_BLOCK_TYPES = {**dict.fromkeys(ENCODERS, "f16"), "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
#: Of the blocks' formats.
_QUANTIZATION_VERSION = 2
#: As llama.cpp's converter says: RWKV has no limit of its own.
_CONTEXT_LENGTH = 1 << 20
#: Embedding and head where matrices have fewer bits: errors in them show in every token.
_LARGE = "q8_0"
#: Added to the variance by llama.cpp's GroupNorm, whatever the file says.
_GROUP_NORM_EPS = 64e-5
#: What ends a turn of a chat with World models.
_END_OF_TURN, _END_OF_TURN_ID = b"\n\n", 261
#: Jinja. Programs that know templates by name look for the one in the comment.
_CHAT_TEMPLATE = """{#- rwkv-world -#}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{- 'System: ' -}}
{%- elif message.role == 'user' -%}{{- 'User: ' -}}
{%- else -%}{{- 'Assistant: ' -}}
{%- endif -%}
{{- message.content | trim + '\\n\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"""


class GgufFormat(ExportFormat):
    """A GGUF file. Vectors and low-rank factors are float32, as llama.cpp's own converter has them."""

    name = "gguf"
    label = "GGUF of llama.cpp"
    suffixes = (".gguf",)
    signatures = (b"GGUF",)
    layouts = ("llama.cpp",)
    dtypes: ClassVar[tuple[str, ...]] = ("f32", "f16", "bf16", *_BLOCK_TYPES)
    stores_tokenizer = True

    def store(self, tensor: ExportTensor, dtype: str | None) -> StoredType:
        """Return the requested type for matrices; q8_0 at least for embedding and head; float32 for all others.

        Rows that are not a whole number of blocks get a type of smaller blocks, or float16.
        """
        if tensor.kind not in ("matrix", "embedding", "head"):
            return FLOAT_TYPES["f32"]
        if dtype not in _BLOCK_TYPES:
            return FLOAT_TYPES["f32" if tensor.dtype == "f64" else tensor.dtype]
        name = dtype if tensor.kind == "matrix" else _LARGE
        while name in BLOCK_TYPES and tensor.shape[-1] % BLOCK_TYPES[name].size:
            name = _BLOCK_TYPES[name]
        return block_type(name, tensor.name) if name in BLOCK_TYPES else FLOAT_TYPES[name]

    def problems(self, model: ExportedModel) -> Iterator[str]:
        """Yield that it cannot have the model's tokenizer, if so."""
        if model.vocabulary is not None and not _is_plain(model.vocabulary):
            yield (
                "knows RWKV's vocabularies of bytes alone, and the model has a Hugging Face tokenizer: the file has "
                "none, and takes and gives token ids"
            )

    def files(self, model: ExportedModel, tensors: Sequence[StoredTensor]) -> Sequence[TargetFile]:
        """Return the one file.

        Raises
        ------
        ConfigError
            If llama.cpp would compute something else.
        """
        _check_config(model.config)
        described, end = [], 0
        for tensor in tensors:
            described.append((tensor.name, tensor.shape, tensor.type.name, end))
            end += tensor.nbytes + _padding(tensor)
        values = (*_general(model, tensors), *_dimensions(model.config, tensors), *_vocabulary(model))
        header = encode_header(values, described, ALIGNMENT)

        def blocks(read: ReadTensor) -> Iterator[Block]:
            yield header
            for tensor in tensors:
                yield from read(tensor)
                yield bytes(_padding(tensor))

        return (TargetFile("", len(header) + end, blocks),)


def _padding(tensor: StoredTensor) -> int:
    return -tensor.nbytes % ALIGNMENT


def _check_config(config: Config) -> None:
    if config.d_att != config.d_model:
        raise ConfigError(
            f"GGUF of llama.cpp: expected an attention as wide as the model, {config.d_model}, got {config.d_att}; "
            "export to another format"
        )
    if config.group_norm_eps != _GROUP_NORM_EPS:
        raise ConfigError(
            f"GGUF of llama.cpp: expected a group_norm_eps of {_GROUP_NORM_EPS}, which llama.cpp always computes with, "
            f"got {config.group_norm_eps}; export to another format"
        )


def _general(model: ExportedModel, tensors: Sequence[StoredTensor]) -> Iterator[tuple[str, TypedValue]]:
    matrices: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.kind == "matrix":
            matrices[tensor.type.name] += tensor.nbytes
    (most, _), *_ = matrices.most_common(1)
    yield "general.architecture", string(model.config.architecture)
    yield "general.type", string("model")
    yield "general.name", string(model.name)
    yield "general.alignment", uint32(ALIGNMENT)
    yield "general.file_type", uint32(_FILE_TYPES[most])
    yield "general.quantization_version", uint32(_QUANTIZATION_VERSION)


def _dimensions(config: Config, tensors: Sequence[StoredTensor]) -> Iterator[tuple[str, TypedValue]]:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    name = config.architecture
    yield f"{name}.context_length", uint32(_CONTEXT_LENGTH)
    yield f"{name}.block_count", uint32(config.num_layers)
    yield f"{name}.attention.layer_norm_epsilon", float32(config.layer_norm_eps)
    # llama.cpp wants the key, and takes the heads from the head size.
    yield f"{name}.attention.head_count", uint32(0)
    dimensions = {"wkv.head_size": config.head_size, "vocab_size": config.vocab_size}
    for key, (tensor, axis) in GGUF_ARCHITECTURES[name].dimensions.items():
        dimensions[key] = shapes[tensor.format(last=config.num_layers - 1)][axis]
    for key, size in dimensions.items():
        yield f"{name}.{key}", uint32(size)


def _vocabulary(model: ExportedModel) -> Iterator[tuple[str, TypedValue]]:
    vocabulary, rows = model.vocabulary, model.config.vocab_size
    if vocabulary is None or not _is_plain(vocabulary):
        yield MODEL, string(NO_VOCABULARY)
        return
    tokens = _tokens(vocabulary, rows)
    yield MODEL, string(RWKV)
    yield TOKENS, string_array([_text(number, token) for number, token in enumerate(tokens)])
    yield TOKEN_TYPES, int32_array([_kind(number, token) for number, token in enumerate(tokens)])
    if vocabulary.end_of_text is not None:
        # The same token begins a text.
        for end in ("bos", "eos"):
            yield f"tokenizer.ggml.{end}_token_id", uint32(vocabulary.end_of_text)
    if tokens[_END_OF_TURN_ID : _END_OF_TURN_ID + 1] == [_END_OF_TURN]:
        yield "tokenizer.ggml.eot_token_id", uint32(_END_OF_TURN_ID)
        yield "tokenizer.chat_template", string(_CHAT_TEMPLATE)


def _is_plain(vocabulary: Vocabulary) -> bool:
    """Tell whether the tokens alone say how texts are split: by the longest that matches."""
    return vocabulary.kind != "huggingface"


def _tokens(vocabulary: Vocabulary, rows: int) -> list[bytes]:
    """Return the bytes of each row of the embedding; of what has none, no bytes."""
    tokens = list(vocabulary.tokens())[:rows]
    return tokens + [b""] * (rows - len(tokens))


def _text(number: int, token: bytes) -> bytes:
    if token:
        return escaped(token)
    return END_OF_TEXT if number == 0 else f"[PAD{number}]".encode()


def _kind(number: int, token: bytes) -> int:
    if token:
        return NORMAL
    return CONTROL if number == 0 else UNUSED
