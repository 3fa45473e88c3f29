"""tokenizer.json through the tokenizers library: exact bytes, whole characters, the package's own errors."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_cy.errors import MissingDependencyError, TokenError, TokenizerError
from rwkv_cy.text.tokenizers.huggingface import MAX_ID, MAX_JSON_BYTES, HuggingFaceTokenizer
from text.samples import byte_level_json

tokenizers = pytest.importorskip("tokenizers", reason="needs the tokenizers library, of the extra [text]")

BPE = HuggingFaceTokenizer(byte_level_json())
#: Decodes whole texts only: words, joined by spaces.
WORDS = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"in": 0, "the": 1, "é": 2}, "unk_token": "none"},
    }
).encode()
#: Decodes bytes written as <0x..>, as sentencepiece does.
FALLBACK = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "<0xE4>": 1, "<0xBA>": 2, "<0xFF>": 3},
            "merges": [],
            "byte_fallback": True,
        },
    }
).encode()


def with_token(content: str, token_id: int) -> bytes:
    data = json.loads(byte_level_json())
    data["model"]["vocab"][content] = token_id
    return json.dumps(data).encode()


def test_it_says_what_it_is() -> None:
    assert repr(BPE) == f"HuggingFaceTokenizer({BPE.vocab_size} ids)"


@given(st.text(max_size=30).filter(lambda text: "<|" not in text))  # special tokens decode to nothing
@settings(deadline=None)
def test_any_text_there_and_back(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode_bytes(ids) == text.encode()
    assert BPE.decode(ids) == text
    stream = BPE.stream()
    assert "".join(stream.push(i) for i in ids) + stream.finish() == text


@given(st.lists(st.integers(0, BPE.vocab_size - 1), max_size=30))
@settings(deadline=None)
def test_any_ids_as_the_library_decodes_them(ids: list[int]) -> None:
    # the library writes an added token as text, as we do, but for one whose every character stands for a byte
    ids = [i for i in ids if BPE.decode_bytes([i]) != "é!".encode()]
    library = tokenizers.Tokenizer.from_str(byte_level_json().decode())
    assert BPE.decode(ids) == library.decode(ids)


def test_added_tokens() -> None:
    content = {BPE.decode_bytes([i]): i for i in range(BPE.vocab_size)}
    assert content[b"   "]
    assert content["é!".encode()]
    assert BPE.decode_bytes([0]) == b""  # special
    assert BPE.end_of_text == 0
    assert BPE.encode("<|endoftext|>") == [0]


def test_nothing_is_cut() -> None:
    """The file asks for texts of at most 4 tokens."""
    assert len(BPE.encode("abcdefghijkl")) == 12


def test_ids_that_the_file_leaves_out_decode_to_nothing() -> None:
    tokenizer = HuggingFaceTokenizer(with_token("far", 1_000))
    assert tokenizer.vocab_size == 1_001
    assert tokenizer.decode_bytes([1_000, 999, 998]) == b"far"


def test_ids_outside() -> None:
    with pytest.raises(TokenError, match=rf"tokens\[0\]: expected an id from 0 to {BPE.vocab_size - 1}, got"):
        BPE.decode([BPE.vocab_size])


def test_half_characters_are_held_back() -> None:
    ids = BPE.encode("人é🙂")
    stream = BPE.stream()
    pieces = [stream.push(i) for i in ids]
    assert [p for p in pieces if p] == ["人", "é", "🙂"]
    assert stream.push(ids[0]) == ""
    assert stream.finish() == "\ufffd"


def test_decoders_that_join_words() -> None:
    tokenizer = HuggingFaceTokenizer(WORDS)
    ids = tokenizer.encode("in the é")
    assert ids == [0, 1, 2]
    assert tokenizer.decode_bytes(ids) == "in the é".encode()
    stream = tokenizer.stream()
    assert [stream.push(i) for i in ids] == ["in", " the", " é"]
    assert stream.finish() == ""
    assert stream.push(1) == "the"
    assert tokenizer.end_of_text is None
    with pytest.raises(TokenError, match=r"tokens\[0\]: expected an id from 0 to 2, got 3"):
        stream.push(3)


def test_decoders_that_look_at_neighbours() -> None:
    tokenizer = HuggingFaceTokenizer(FALLBACK)
    stream = tokenizer.stream()
    assert [stream.push(i) for i in (0, 1, 2, 2, 0)] == ["a", "", "", "人", "a"]
    assert [stream.push(3), stream.push(0), stream.finish()] == ["", "\ufffda", ""]
    assert stream.push(1) == ""
    assert stream.finish() == "\ufffd"


def test_text_that_the_vocabulary_lacks() -> None:
    with pytest.raises(TokenizerError, match=r"text: this tokenizer.json cannot encode it"):
        HuggingFaceTokenizer(WORDS).encode("unknown")


def test_what_is_no_text() -> None:
    with pytest.raises(TokenizerError, match="lone surrogate"):
        BPE.encode("\ud800")
    with pytest.raises(TokenizerError, match="text: expected str, got int"):
        BPE.encode(3)  # type: ignore[arg-type]
    assert BPE.encode_bytes("é".encode()) == BPE.encode("é")
    with pytest.raises(TokenizerError, match=r"expected UTF-8, .* got an invalid byte at offset 1 .*\(iconv"):
        BPE.encode_bytes(b"a\xff")


def test_stored_and_restored() -> None:
    again = HuggingFaceTokenizer(BPE.to_bytes())
    assert again.to_bytes() == BPE.to_bytes() == byte_level_json()


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"{}", b"[1]", b"\xff\xfe", b"{" * 100_000, b'{"model": {"type": "BPE"}}', byte_level_json()[:-9]],
)
def test_damaged_files(data: bytes) -> None:
    with pytest.raises(
        TokenizerError,
        match=r"my.json: not a tokenizer.json( that the installed tokenizers library reads)?: .*; (down|if it is)",
    ):
        HuggingFaceTokenizer(data, "my.json")


def test_a_file_that_is_too_long() -> None:
    with pytest.raises(TokenizerError, match=f"expected at most {MAX_JSON_BYTES} bytes"):
        HuggingFaceTokenizer(bytes(MAX_JSON_BYTES + 1))


def test_an_empty_vocabulary() -> None:
    data = json.loads(WORDS)
    data["model"]["vocab"] = {}
    with pytest.raises(TokenizerError, match="expected a vocabulary, got an empty one"):
        HuggingFaceTokenizer(json.dumps(data).encode())


def test_ids_far_out() -> None:
    with pytest.raises(TokenizerError, match=f"expected ids below {MAX_ID}, got 4000000000"):
        HuggingFaceTokenizer(with_token("far", 4_000_000_000))


def test_errors_that_are_not_the_librarys_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        @staticmethod
        def from_str(text: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizers, "Tokenizer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        HuggingFaceTokenizer(byte_level_json())


def test_panics_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    class Panicking:
        @staticmethod
        def from_str(text: str) -> Any:
            raise PanicException("index out of bounds")

    monkeypatch.setattr(tokenizers, "Tokenizer", Panicking)
    with pytest.raises(TokenizerError, match=r"not a tokenizer.json that the .* reads: index out of bounds"):
        HuggingFaceTokenizer(byte_level_json())


def with_step(name: str, step: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(byte_level_json()) | {name: step}).encode()


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(trie: bytes, texts: bytes) -> dict[str, Any]:
    raw = len(trie).to_bytes(4, "little") + trie + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("normalizer", {"type": "Sequence", "normalizers": [replace("aa", String="a")] * 40}),
        ("normalizer", {"type": "Sequence", "normalizers": [replace("aa", Regex="a")] * 40}),
        ("normalizer", replace("a" * 2000, String="a")),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a" * 40}] * 2}),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 40}),
        ("normalizer", charsmap(b"\0" * 8, b"b" * 2000)),
        (
            "pre_tokenizer",
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
                ]
                * 40,
            },
        ),
        ("decoder", {"type": "Sequence", "decoders": [replace("aa", String="a")] * 40}),
    ],
)
def test_files_that_make_a_text_far_longer(name: str, step: dict[str, Any]) -> None:
    """Forty steps that double a text would make 2**40 characters of one."""
    with pytest.raises(
        TokenizerError, match=r"lengthens a text at most 1000 times, got one that lengthens it .+ times"
    ):
        HuggingFaceTokenizer(with_step(name, step))


def test_steps_of_tokenizers_in_use_pass() -> None:
    """sentencepiece's and CLIP's."""
    for step in (
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace("▁", String=" ")]},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace(" ", Regex="\\s+"), {"type": "Lowercase"}]},
        {"type": "Sequence", "normalizers": [replace('"', String="``"), replace('"', String="''"), {"type": "NFKD"}]},
    ):
        assert HuggingFaceTokenizer(with_step("normalizer", step)).encode("a")


def test_a_regular_expression_that_takes_for_ever() -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = HuggingFaceTokenizer(with_step("pre_tokenizer", split))
    with pytest.raises(TokenizerError, match=r"this tokenizer.json cannot encode it: .*retry-limit"):
        tokenizer.encode("a" * 40 + "b")


def test_panics_while_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    class Panicking:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            raise PanicException("index out of bounds")

    words = HuggingFaceTokenizer(WORDS)
    monkeypatch.setattr(words, "_tokenizer", Panicking())
    with pytest.raises(TokenizerError, match=r"this tokenizer.json cannot decode them: index out of bounds"):
        words.decode([0])


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Starved:
        def encode(self, text: str, add_special_tokens: bool) -> None:
            raise MemoryError

    words = HuggingFaceTokenizer(WORDS)
    monkeypatch.setattr(words, "_tokenizer", Starved())
    with pytest.raises(MemoryError):
        words.encode("in")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install tokenizers"):
        HuggingFaceTokenizer(byte_level_json())
