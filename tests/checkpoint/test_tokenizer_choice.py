from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoints import write_safetensors, write_small
from formats.foreign import rwkv7_parameters
from formats.make_gguf import Gguf, rwkv7_gguf, rwkv7_tensors, rwkv7_values, world_like
from rwkv_cy.checkpoint import tokenizer_choice
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.checkpoint.tokenizer_choice import choose_tokenizer, describe_tokenizer, fit_warning
from rwkv_cy.errors import FormatError, StorageError, TokenizerError
from rwkv_cy.model.language_model import load
from rwkv_cy.storage import StoredTokenizer
from rwkv_cy.text import WorldTokenizer, find_tokenizer, load_tokenizer
from rwkv_cy.text.tokenizers import find as text_tokenizers
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export
from rwkv_cy.toolkit.inspect import inspect


def choose(path: Path, vocab: int, wanted: str | None = None) -> tuple[StoredTokenizer | None, tuple[str, ...]]:
    with open_source(path) as source:
        return choose_tokenizer(source, vocab, wanted)


def write_world(path: Path) -> Path:
    """Write a World vocabulary of single bytes and its last token."""
    lines = (f"{i + 1} {bytes([i])!r} 1\n" for i in range(256))
    path.write_text("".join(lines) + "65529 'the last' 8\n")
    return path


def write_json(path: Path, size: int = 8) -> Path:
    """Write a tokenizer.json of some words."""
    model = {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(size)}, "unk_token": "w0"}
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path / "s", vocab=8)


@pytest.mark.parametrize("wanted", [None, "auto"])
def test_256_tokens_are_bytes(small: Path, wanted: str | None) -> None:
    assert choose(small, 256, wanted) == (StoredTokenizer("bytes", b""), ())


def test_the_choice_none(small: Path) -> None:
    assert choose(small, 256, "none") == (None, ())


@pytest.mark.parametrize("vocab", [65_529, 65_536])
def test_world_beside_the_checkpoint(small: Path, vocab: int) -> None:
    path = write_world(small.with_name("rwkv_vocab_v20230424.txt"))
    stored, warnings = choose(small, vocab)
    assert stored == StoredTokenizer("world", find_tokenizer(path).to_bytes())
    assert warnings == ()


def test_world_from_the_package(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_world(tmp_path / "elsewhere.txt")
    monkeypatch.setattr(text_tokenizers, "packaged_vocabulary", lambda: path)
    stored, _ = choose(small, 65_536)
    assert stored is not None
    assert stored.kind == "world"


def test_world_that_is_not_installed_is_a_warning(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise tokenizer_choice.RWKVError("the World vocabulary is not here")

    monkeypatch.setattr(text_tokenizers, "packaged_vocabulary", missing)
    stored, (reason, remedy) = choose(small, 65_536)
    assert stored is None
    assert reason == "the World vocabulary is not here"
    assert "no tokenizer is known for a vocabulary of 65536 tokens; pass one with tokenizer=" in remedy


@pytest.mark.parametrize("name", ["tokenizer.json", "20B_tokenizer.json"])
def test_tokenizer_json_beside_the_checkpoint(small: Path, name: str) -> None:
    pytest.importorskip("tokenizers")
    path = write_json(small.with_name(name))
    assert choose(small, 8) == (StoredTokenizer("huggingface", path.read_bytes()), ())


def test_tokenizer_json_in_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    write_small(tmp_path / "model.safetensors", vocab=8)
    (tmp_path / "config.json").write_text("{}")
    path = write_json(tmp_path / "tokenizer.json")
    assert choose(tmp_path, 8) == (StoredTokenizer("huggingface", path.read_bytes()), ())


def test_a_file_that_the_user_names(small: Path, tmp_path: Path) -> None:
    path = write_world(tmp_path / "mine.txt")
    stored, _ = choose(small, 65_536, str(path))
    assert stored is not None
    assert stored.kind == "world"


def test_no_tokenizer_is_a_warning(small: Path) -> None:
    rest = "; pass one with tokenizer= (--tokenizer FILE), or the file will have no tokenizer"
    warning = f"{small}: no tokenizer is known for a vocabulary of 8 tokens{rest}"
    assert choose(small, 8) == (None, (warning,))


def test_the_vocabulary_of_the_pile_is_known_by_its_size(small: Path) -> None:
    stored, (warning,) = choose(small, 50_277)
    assert stored is None
    assert "for a vocabulary of 50277 tokens (the Pile models use 20B_tokenizer.json, which is hf:" in warning


def test_one_beside_it_that_does_not_fit_is_a_warning(small: Path) -> None:
    pytest.importorskip("tokenizers")
    write_json(small.with_name("tokenizer.json"), size=9)
    stored, warnings = choose(small, 8)
    assert stored is None
    assert warnings[0] == (
        f"{small.with_name('tokenizer.json')}: expected a tokenizer of at most 8 tokens, as the model has, got "
        "huggingface with 9; passed by"
    )
    assert "no tokenizer is known" in warnings[1]


def test_a_named_one_that_does_not_fit_is_an_error(small: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError, match="at most 8 tokens, as the model has, got bytes with 256; pass the model's"
    ):
        choose(small, 8, "bytes")
    path = write_world(tmp_path / "w.txt")
    with pytest.raises(TokenizerError, match="at most 50277 tokens, as the model has, got world with 65536"):
        choose(small, 50_277, str(path))


def test_a_named_one_with_too_few_ids_is_a_warning(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = write_json(tmp_path / "few.json", size=7)
    stored, (warning,) = choose(small, 8, str(path))
    assert stored == StoredTokenizer("huggingface", path.read_bytes())
    assert warning == (
        f"{small}: expected a tokenizer of about 8 tokens, as the model has, got huggingface with 7: probably another "
        "model's; its text will make no sense"
    )
    write_small(tmp_path / "more", vocab=300)
    with pytest.warns(RuntimeWarning, match=r"more: expected a tokenizer of about 300 tokens, .* got bytes with 256"):
        assert load(tmp_path / "more", tokenizer="bytes").tokenizer is not None


@pytest.mark.parametrize(("rows", "ids"), [(50_304, 50_277), (50_277, 50_277), (260, 256)])
def test_some_rows_more_than_ids_are_usual(rows: int, ids: int) -> None:
    tokenizer = WorldTokenizer([*(i.to_bytes(3, "big") for i in range(ids))])
    assert fit_warning(tokenizer, rows, "m") is None
    assert fit_warning(tokenizer, ids + ids // 40, "m") is not None


def test_one_of_the_files_beside_it_fits(small: Path) -> None:
    pytest.importorskip("tokenizers")
    write_json(small.with_name("tokenizer.json"), size=7)
    path = write_json(small.with_name("20B_tokenizer.json"))
    stored, (passed,) = choose(small, 8)
    assert stored == StoredTokenizer("huggingface", path.read_bytes())
    assert "tokenizer.json: expected a tokenizer of about 8 tokens, as the model has, got huggingface with 7" in passed


def test_a_world_vocabulary_is_none_of_other_models(small: Path) -> None:
    write_world(small.with_name("rwkv_vocab_v20230424.txt"))
    stored, (warning,) = choose(small, 8)
    assert stored is None
    assert "no tokenizer is known" in warning


def test_characters_beside_the_checkpoint(small: Path) -> None:
    """As RWKV-LM writes them for models of characters."""
    vocabulary = dict(enumerate("\n abcde\u00e9"))
    small.with_name("vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-16")
    stored, warnings = choose(small, 8)
    assert stored is not None
    assert warnings == ()
    assert load_tokenizer(stored.kind, stored.data).encode("a b\u00e9") == [2, 1, 3, 7]


def test_a_file_beside_it_that_is_damaged_is_passed_by(small: Path) -> None:
    small.with_name("vocab.json").write_text("{")
    stored, (passed, _) = choose(small, 8)
    assert stored is None
    assert passed.startswith(f"{small.with_name('vocab.json')}: vocabulary: expected a plain JSON object")
    assert passed.endswith("; passed by")


def test_the_tokenizer_of_another_model_file(tmp_path: Path) -> None:
    source = write_small(tmp_path / "s")
    for wanted in ("bytes", "none"):
        convert(source, tmp_path / wanted, tokenizer=wanted)
    assert choose(source, 256, str(tmp_path / "bytes")) == (StoredTokenizer("bytes", b""), ())
    with pytest.raises(TokenizerError, match="none: expected a model file with a tokenizer, got one without; name"):
        choose(source, 256, str(tmp_path / "none"))


def test_the_vocabulary_of_a_gguf_file(tmp_path: Path) -> None:
    words = [b"a", b"b c", b"\xff", "\u4eba".encode()]
    parameters = rwkv7_parameters(vocab=8)
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf([*rwkv7_values(parameters), *world_like(words, 8)], rwkv7_tensors(parameters)).to_bytes())
    expected = WorldTokenizer([b"", *words, b"", b"", b""])
    stored, warnings = choose(path, 8)
    assert (stored, warnings) == (StoredTokenizer("world", expected.to_bytes()), ())
    assert inspect(path).tokenizer == "world (in the file)"
    assert load(path).tokenizer is not None
    assert choose(write_small(tmp_path / "s", vocab=8), 8, str(path)) == (stored, ())
    (tmp_path / "none.gguf").write_bytes(rwkv7_gguf(parameters))
    with pytest.raises(FormatError, match="none.gguf: tokenizer.ggml.model: expected the kind of the vocabulary, got"):
        choose(path, 8, str(tmp_path / "none.gguf"))


def test_a_gguf_file_of_plain_bytes(tmp_path: Path) -> None:
    parameters = rwkv7_parameters(vocab=256)
    config = load(write_safetensors(tmp_path / "s", parameters)).config
    assert config.vocab_size == 256
    export(tmp_path / "s", tmp_path / "m.gguf")
    assert choose(tmp_path / "m.gguf", 256) == (StoredTokenizer("bytes", b""), ())
    assert inspect(tmp_path / "m.gguf").tokenizer == "bytes (in the file)"
    words = [bytes([i]) for i in range(1, 256)]
    content = Gguf([*rwkv7_values(parameters), *world_like(words, 256)], rwkv7_tensors(parameters)).to_bytes()
    (tmp_path / "w.gguf").write_bytes(content)
    assert inspect(tmp_path / "w.gguf").tokenizer == "world (in the file)"


def test_a_tokenizer_with_more_ids_than_rows_is_not_loaded(small: Path) -> None:
    with pytest.raises(
        TokenizerError, match="s: expected a tokenizer of at most 8 tokens, as the model has, got bytes"
    ):
        load(small, tokenizer="bytes")


def test_a_named_one_that_is_missing_is_an_error(small: Path) -> None:
    with pytest.raises(StorageError, match="none.json"):
        choose(small, 8, "none.json")


def test_a_model_file_keeps_its_own(tmp_path: Path) -> None:
    source = write_small(tmp_path / "s")
    for wanted in ("bytes", "none"):
        convert(source, tmp_path / wanted, tokenizer=wanted)
    assert choose(tmp_path / "bytes", 256) == (StoredTokenizer("bytes", b""), ())
    assert choose(tmp_path / "none", 256) == (None, ())


def test_tokenizers_in_words() -> None:
    assert describe_tokenizer(None) == "none"
    assert describe_tokenizer(StoredTokenizer("bytes", b"")) == "bytes"
    assert describe_tokenizer(StoredTokenizer("world", b"x" * 1234)) == "world (1,234 bytes)"


def test_a_checkpoint_that_is_loaded_directly_gets_the_same(small: Path) -> None:
    pytest.importorskip("tokenizers")
    write_json(small.with_name("tokenizer.json"))
    tokenizer = load(small).tokenizer
    assert tokenizer is not None
    assert tokenizer.kind == "huggingface"
    small.with_name("tokenizer.json").unlink()
    assert load(small).tokenizer is None
