"""Fuzz targets of the tokenizers' data: vocabularies in each form, and tokenizer.json."""

from __future__ import annotations

import json

from fuzz import repair
from fuzz.reading import written
from fuzz.target import Target
from rwkv_cy.errors import TokenizerError
from rwkv_cy.text.tokenizers.base import Tokenizer
from rwkv_cy.text.tokenizers.find import find_tokenizer, load_tokenizer
from rwkv_cy.text.tokenizers.huggingface import HuggingFaceTokenizer
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE, pack
from rwkv_cy.text.tokenizers.world import WorldTokenizer
from text.samples import MORE, byte_level_json, line, world_tokens

SAMPLES = (b"In the beginning\n\n", "人é🙂".encode(), bytes(range(256)))
_LETTERS = [b"", *(token.encode() if isinstance(token, str) else token for token in MORE)]
_WORDPIECE = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": 0, "content": "<s>", "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    "model": {
        "type": "WordPiece",
        "unk_token": "<s>",
        "continuing_subword_prefix": "",
        "max_input_chars_per_word": 100,
        "vocab": {"<s>": 0, "In": 1, "\u0120the": 2, "e": 3},
    },
}


def _vocabularies() -> tuple[bytes, ...]:
    """Return vocabularies of a few tokens in each form."""
    numbered = "".join(line(number, token) + "\n" for number, token in enumerate(_LETTERS) if token)
    return (
        numbered.encode(),
        numbered.replace("\n", "\r\n").encode("utf-16"),
        "\n".join(["b'<s>'", *map(repr, filter(None, _LETTERS))]).encode(),
        pack(_LETTERS),
        json.dumps({number: list(token) for number, token in enumerate(_LETTERS) if token}).encode(),
        json.dumps({chr(0x4E00 + number): number for number in range(9)}).encode(),
        json.dumps({"b'\\xff'": 1, "a\\n": 2, "\\u00e9": 3}).encode(),
        json.dumps(_WORDPIECE).encode(),
    )


def _world() -> tuple[bytes, ...]:
    """Return a vocabulary of the World's size in both forms."""
    tokens = world_tokens()
    text = "".join(line(number, token) + "\n" for number, token in enumerate(tokens) if token)
    return text.encode(), pack(tokens)


def read_vocabulary(data: bytes) -> None:
    """Load a vocabulary as a user names it; what loads must give back any bytes that it can encode.

    A vocabulary of the World's size can encode any.
    """
    with written(data) as path:
        tokenizer = find_tokenizer(path)
    if isinstance(tokenizer, WorldTokenizer):
        check(tokenizer)
    else:
        check_library(tokenizer)


def check(tokenizer: WorldTokenizer) -> None:
    for sample in SAMPLES:
        try:
            ids = tokenizer.encode_bytes(sample)
        except TokenizerError:
            if tokenizer.vocab_size == WORLD_SIZE:
                raise AssertionError(f"{sample!r} cannot be encoded") from None
            continue
        if tokenizer.decode_bytes(ids) != sample:
            raise AssertionError(f"{sample!r} does not come back")
    if WorldTokenizer.from_bytes(tokenizer.to_bytes()).to_bytes() != tokenizer.to_bytes():
        raise AssertionError("the stored form does not come back")


def read_tokenizer_json(data: bytes) -> None:
    """Load a tokenizer.json, and run it."""
    check_library(HuggingFaceTokenizer(data))


def check_library(tokenizer: Tokenizer) -> None:
    """Encode a text, and decode it at once and piece by piece: whatever comes out, it is text."""
    ids = tokenizer.encode("In the beginning é人🙂")
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids] + [stream.finish()]
    tokenizer.decode(ids).encode()
    "".join(pieces).encode()
    if load_tokenizer(tokenizer.kind, tokenizer.to_bytes()).encode("In") != tokenizer.encode("In"):
        raise AssertionError("the stored form is another tokenizer")


_JSON_WORDS = tuple(
    b'"%s"' % word
    for word in (
        *(b"type", b"model", b"vocab", b"merges", b"added_tokens", b"content", b"special", b"id", b"normalizer"),
        *(b"pre_tokenizer", b"decoder", b"post_processor", b"truncation", b"padding", b"BPE", b"WordPiece", b"Unigram"),
        *(b"WordLevel", b"ByteLevel", b"Sequence", b"Replace", b"Regex", b"String", b"Split", b"Metaspace", b"Strip"),
        *(b"ByteFallback", b"Fuse", b"NFKC", b"Prepend", b"pattern", b"behavior", b"unk_token", b"byte_fallback"),
    )
)
_WORDS = (*_JSON_WORDS[:8], b"RWKVTOK1", b"b'\\xff'")
TARGETS = (
    Target("vocabulary", _vocabularies, read_vocabulary, repair.vocabulary, _WORDS),
    Target("world", _world, read_vocabulary, repair.vocabulary, guided=False),
    Target(
        "tokenizer-json",
        lambda: (byte_level_json(), byte_level_json(decoder=False), json.dumps(_WORDPIECE).encode()),
        read_tokenizer_json,
        words=_JSON_WORDS,
    ),
)
