"""The tokenizer's files of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rwkv_cy.formats.layouts.configs import WORLD_CODE
from rwkv_cy.formats.writers.base import TargetFile, Vocabulary

__all__ = ["tokenizer_files"]

_FAST = "PreTrainedTokenizerFast"
_WORLD_FILE = "rwkv_vocab_v20230424.txt"


def tokenizer_files(vocabulary: Vocabulary) -> Iterator[TargetFile]:
    """Yield the vocabulary and tokenizer_config.json.

    A World vocabulary is written in its published text format: transformers runs it by code from the hub. Plain bytes
    become a tokenizer.json of 256 tokens.
    """
    if vocabulary.kind == "world":
        yield TargetFile.of_bytes(_WORLD_FILE, vocabulary.text())
        yield _json(
            "tokenizer_config.json",
            {
                "auto_map": {"AutoTokenizer": [WORLD_CODE, None]},
                "tokenizer_class": WORLD_CODE.rpartition(".")[2],
                "use_fast": False,
            },
        )
        return
    settings: dict[str, Any] = {"tokenizer_class": _FAST, "clean_up_tokenization_spaces": False}
    if vocabulary.kind == "bytes":
        yield _json("tokenizer.json", _bytes_tokenizer())
    else:
        yield TargetFile.of_bytes("tokenizer.json", vocabulary.data)
        if vocabulary.end_of_text is not None:
            token = vocabulary.tokens()[vocabulary.end_of_text].decode("utf-8", "replace")
            settings |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), token)
    yield _json("tokenizer_config.json", settings)


def _bytes_tokenizer() -> dict[str, Any]:
    """Return a tokenizer.json in which each byte is the token of its number."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    # GPT-2's alphabet: a printable character stands for its own byte, the others from 256 on for the rest.
    letters = {byte: chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {letter: byte for byte, letter in letters.items()},
            "merges": [],
        },
    }


def _json(name: str, value: object) -> TargetFile:
    return TargetFile.of_bytes(name, (json.dumps(value, indent=2) + "\n").encode())
