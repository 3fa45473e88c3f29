"""The tokenizer's files of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rwkv_cy.formats.layouts.configs import WORLD_CODE
from rwkv_cy.formats.writers.base import TargetFile, Vocabulary

__all__ = ["tokenizer_files"]

_FAST = "PreTrainedTokenizerFast"
_WORLD_FILE = "rwkv_vocab_v20230424.txt"
#: The name of id 0 where it ends a text, and of ids that stand for no bytes, as RWKV's own repositories have them.
_END, _UNUSED = "<|endoftext|>", "\ue000{}\ue001"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
#: Longer words than this would become the unknown token; the whole text is one word.
_NO_LIMIT = (1 << 31) - 1


def tokenizer_files(vocabulary: Vocabulary) -> Iterator[TargetFile]:
    """Yield the vocabulary and tokenizer_config.json.

    A World vocabulary is written in its published text format, which code from the hub runs, and as a tokenizer.json
    that takes the longest token at each place, which transformers runs by itself. The second is not written for a
    vocabulary that has bytes for id 0: it needs a name for what it cannot encode. Plain bytes become a tokenizer.json
    of 256 tokens.
    """
    if vocabulary.kind == "world":
        yield TargetFile.of_bytes(_WORLD_FILE, vocabulary.text())
        settings: dict[str, Any] = {"auto_map": {"AutoTokenizer": [WORLD_CODE, None]}}
        if vocabulary.end_of_text == 0:
            yield _json("tokenizer.json", _greedy_tokenizer(vocabulary.tokens()))
            settings |= {"tokenizer_class": _FAST, "clean_up_tokenization_spaces": False}
            settings |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), _END)
        else:
            settings |= {"tokenizer_class": WORLD_CODE.rpartition(".")[2], "use_fast": False}
        yield _json("tokenizer_config.json", settings)
        return
    settings = {"tokenizer_class": _FAST, "clean_up_tokenization_spaces": False}
    if vocabulary.kind == "bytes":
        yield _json("tokenizer.json", _bytes_tokenizer())
    else:
        yield TargetFile.of_bytes("tokenizer.json", vocabulary.data)
        if vocabulary.end_of_text is not None:
            token = vocabulary.tokens()[vocabulary.end_of_text].decode("utf-8", "replace")
            settings |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), token)
    yield _json("tokenizer_config.json", settings)


def _greedy_tokenizer(tokens: Sequence[bytes]) -> dict[str, Any]:
    """Return a tokenizer.json that takes the longest of these tokens at each place of a text; id 0 ends a text."""
    letters = _letters()
    vocabulary = {_END: 0}
    for number, token in enumerate(tokens):
        if number:
            vocabulary["".join(letters[byte] for byte in token) or _UNUSED.format(number)] = number
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    model = {
        "type": "WordPiece",
        "unk_token": _END,
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": _NO_LIMIT,
        "vocab": vocabulary,
    }
    return _tokenizer(model, [{"id": 0, "content": _END, "special": True, **flags}])


def _bytes_tokenizer() -> dict[str, Any]:
    """Return a tokenizer.json in which each byte is the token of its number."""
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": {letter: byte for byte, letter in _letters().items()},
        "merges": [],
    }
    return _tokenizer(model, [])


def _tokenizer(model: dict[str, Any], added_tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": model,
    }


def _letters() -> dict[int, str]:
    """Return GPT-2's alphabet: a printable character stands for its own byte, the others from 256 on for the rest."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)}


def _json(name: str, value: object) -> TargetFile:
    return TargetFile.of_bytes(name, (json.dumps(value, indent=2) + "\n").encode())
