"""Small vocabularies, and a model without weights."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rwkv_cy.text.tokenizers import Tokenizer
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE, WORLD_USED

#: Tokens of more than one byte: words, halves of characters, quotes and escapes of each kind.
MORE = (
    " the", "the", "he", "In", " In the", "\n\n", "\t\t", "é", "人", "🙂", "🙂🙂",
    "a'b", 'a"b', "a'\"b", "\\x", "\x7f\x00",
    b"\xe4\xba", b"\xf0\x9f\x99", b"\xff\xfe", b"\x99\x82", b"'\xff", b"\"\xff'", " " * 20,
)  # fmt: skip


def world_tokens() -> list[bytes]:
    """Return the bytes of each id of a World vocabulary with few tokens, the last one among them."""
    tokens = [b"", *(bytes([b]) for b in range(256))]
    for token in MORE:
        data = token.encode() if isinstance(token, str) else token
        if data not in tokens:
            tokens.append(data)
    tokens += [b""] * (WORLD_SIZE - len(tokens))
    tokens[WORLD_USED] = b"\xfe" * 4
    return tokens


def line(token_id: int, token: bytes) -> str:
    """Write a line of the text format, as the published file does."""
    try:
        literal = repr(token.decode())
    except UnicodeDecodeError:
        literal = repr(token)
    return f"{token_id} {literal} {len(token)}"


def byte_level_json(*, decoder: bool = True) -> bytes:
    """Return a ``tokenizer.json`` of GPT-2's kind: 256 bytes, merges, special and other added tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    characters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©"), ("ð", "Ł")]
    vocabulary = {token: i for i, token in enumerate([*characters, *("".join(m) for m in merges)], start=1)}
    size = len(vocabulary)
    added = [(0, "<|endoftext|>", True), (size + 1, "   ", False), (size + 2, "é!", False), (size + 5, "<|pad|>", True)]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": None,
            "added_tokens": [
                {"id": i, "content": content, "special": special}
                | {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
                for i, content, special in added
            ],
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
            if decoder
            else None,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {"<|endoftext|>": 0} | vocabulary,
                "merges": [list(m) for m in merges],
            },
        }
    ).encode()


class CountingModel:
    """A model whose logits depend on all that it has read, and whose state is a list that forward may change."""

    def __init__(self, vocab_size: int, tokenizer: Tokenizer | None = None, script: Sequence[int] = ()) -> None:
        self.vocab_size = vocab_size
        self.tokenizer = tokenizer
        self.script = list(script)
        self.calls: list[list[int]] = []

    def forward(
        self, tokens: Sequence[int], state: list[int] | None = None, *, out: list[int] | None = None
    ) -> tuple[npt.NDArray[np.float32], list[int]]:
        """Say the script, one token after another, or, at its end, noise that the history decides."""
        self.calls.append(list(tokens))
        after = [] if out is None else out
        after[:] = [*(state or ()), *tokens]
        state = after
        logits = np.random.default_rng([len(state), *state[-3:]]).standard_normal(self.vocab_size).astype(np.float32)
        place = len(self.calls) - 1
        if place < len(self.script):
            logits[self.script[place]] = 1_000.0
        return logits, state
