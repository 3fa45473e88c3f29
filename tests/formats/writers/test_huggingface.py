from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import random_checkpoint, small_parameters, write_safetensors
from contracts.cases import CONFIGS
from formats.sources import read_all
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, FormatError, StorageError
from rwkv_cy.formats.layouts.source import TranslatedSource
from rwkv_cy.model.language_model import load
from rwkv_cy.text import WorldTokenizer
from rwkv_cy.text.tokenizers import find_tokenizer, published_text
from rwkv_cy.text.tokenizers.vocabulary import parse_text
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.export import export, plan_export

SEVEN = replace(CONFIGS["rwkv7"], vocab_size=256)


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "seven.safetensors", random_checkpoint(SEVEN, optional=False))


def settings(folder: Path, name: str = "config.json") -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / name).read_text())
    return value


def assert_within(expected: dict[str, Any], found: dict[str, Any]) -> None:
    assert {name: found[name] for name in expected} == expected


def test_the_files_of_a_folder(small: Path, tmp_path: Path) -> None:
    report = export(small, tmp_path / "t")
    names = sorted(path.name for path in (tmp_path / "t").iterdir())
    assert names == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert report.plan.format == "huggingface"
    written = sum((tmp_path / "t" / file.name).stat().st_size for file in report.plan.files)
    assert written == report.size < report.plan.disk_needed
    found = load(tmp_path / "t")
    assert found.config == load(small).config
    assert found.tokenizer is not None
    assert found.tokenizer.kind == "bytes"


def test_config_of_rwkv4(small: Path, tmp_path: Path) -> None:
    export(small, tmp_path / "t")
    expected = {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "hidden_size": 32,
        "attention_hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 256,
        "layer_norm_epsilon": 1e-5,
        "rescale_every": 0,
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        "bos_token_id": None,
    }
    assert_within(expected, settings(tmp_path / "t"))
    export(small, tmp_path / "half", dtype="f16")
    assert_within({"rescale_every": 6, "torch_dtype": "float16"}, settings(tmp_path / "half"))


@pytest.mark.parametrize(
    ("layout", "architecture"), [("transformers", "Rwkv7ForCausalLM"), ("fla", "RWKV7ForCausalLM")]
)
def test_config_of_rwkv7(seven: Path, tmp_path: Path, layout: str, architecture: str) -> None:
    report = export(seven, tmp_path / "t", layout=layout)
    expected = {
        "architectures": [architecture],
        "model_type": "rwkv7",
        "hidden_size": SEVEN.d_model,
        "intermediate_size": SEVEN.d_ffn,
        "num_hidden_layers": SEVEN.num_layers,
        "head_dim": SEVEN.head_size,
        "num_heads": SEVEN.d_att // SEVEN.head_size,
        "decay_low_rank_dim": SEVEN.ranks["w"],
        "a_low_rank_dim": SEVEN.ranks["a"],
        "v_low_rank_dim": SEVEN.ranks["v"],
        "gate_low_rank_dim": SEVEN.ranks["g"],
        "norm_eps": 1e-5,
        "norm_bias": True,
        "vocab_size": 256,
    }
    found = settings(tmp_path / "t")
    assert_within(expected, found)
    assert "group_norm_epsilon" not in found
    assert report.warnings == ()
    assert load(tmp_path / "t").config == SEVEN


@pytest.mark.parametrize(
    ("layout", "architecture"), [("transformers", "Rwkv6ForCausalLM"), ("fla", "RWKV6ForCausalLM")]
)
def test_config_of_rwkv6(tmp_path: Path, layout: str, architecture: str) -> None:
    config = replace(CONFIGS["rwkv6"], d_ffn=CONFIGS["rwkv6"].d_model * 7 // 2 // 32 * 32)
    source = write_safetensors(tmp_path / "s.safetensors", random_checkpoint(config, optional=False))
    report = export(source, tmp_path / "t", layout=layout, tokenizer="none")
    found = settings(tmp_path / "t")
    assert (found["architectures"], found["model_type"]) == ([architecture], "rwkv6")
    assert (found["hidden_size"], found["intermediate_size"]) == (config.d_model, config.d_ffn)
    where = f"{tmp_path / 't'}: the code of flash-linear-attention for RWKV-6"
    if layout == "fla":
        ranks = found["proj_low_rank_dim"], found["gate_low_rank_dim"]
        assert ranks == (config.ranks["maa"], config.ranks["decay"])
        assert (found["expand_k"], found["num_heads"]) == (1.0, config.d_att // config.head_size)
        assert report.warnings == (f"{where} has 1e-05 for the epsilon of the GroupNorm, and the model 0.00064",)
    else:
        assert found["auto_map"]["AutoModelForCausalLM"].endswith("--modeling_rwkv6.Rwkv6ForCausalLM")
        assert report.warnings == ()
    assert load(tmp_path / "t").config == config


@pytest.mark.parametrize(("name", "layout"), [("rwkv6", "transformers"), ("rwkv6", "fla"), ("rwkv5.2", "transformers")])
def test_another_epsilon_of_the_group_norm_comes_back(tmp_path: Path, name: str, layout: str) -> None:
    (tmp_path / "s").mkdir()
    write_safetensors(tmp_path / "s" / "model.safetensors", random_checkpoint(CONFIGS[name], optional=False))
    (tmp_path / "s" / "config.json").write_text(json.dumps({"group_norm_epsilon": 1e-5}))
    report = export(tmp_path / "s", tmp_path / "t", layout=layout, tokenizer="none")
    assert load(tmp_path / "t").config.group_norm_eps == 1e-5
    said = any("has 0.00064 for the epsilon of the GroupNorm, and the model 1e-05" in text for text in report.warnings)
    assert said == (layout == "transformers")  # the code of flash-linear-attention has 1e-05


@pytest.mark.parametrize("d_ffn", [448, 512])
def test_config_of_rwkv5(tmp_path: Path, d_ffn: int) -> None:
    config = replace(CONFIGS["rwkv5.2"], d_model=128, d_att=128, d_ffn=d_ffn)
    source = write_safetensors(tmp_path / "s.safetensors", random_checkpoint(config, optional=False))
    report = export(source, tmp_path / "t", tokenizer="none")
    found = settings(tmp_path / "t")
    assert (found["model_type"], found["head_size"], found["head_size_divisor"]) == ("rwkv5", config.head_size, 8)
    problem = "the code of transformers for RWKV-5.2 and RWKV-6 expects a channel mix of width 448, got 512"
    assert report.warnings == ((f"{tmp_path / 't'}: {problem}",) if d_ffn == 512 else ())


def test_what_the_project_s_code_cannot_do_is_said(tmp_path: Path) -> None:
    config = replace(SEVEN, head_size=16, d_att=96)
    parameters = random_checkpoint(config)
    assert any(name.endswith("time_state") for name in parameters)
    source = write_safetensors(tmp_path / "s.safetensors", parameters)
    report = export(source, tmp_path / "t")
    where = f"{tmp_path / 't'}: the code of transformers for RWKV-7"
    assert report.warnings == (
        f"{where} expects attention as wide as the model, {config.d_model}, got 96",
        f"{where} has 0.00016 for the epsilon of the GroupNorm, and the model 0.00064",
        f"{where} starts from a state of zeros, and the model has an initial state of its own",
    )
    assert settings(tmp_path / "t")["group_norm_epsilon"] == 64e-5
    assert load(tmp_path / "t").config == config
    card = (tmp_path / "t" / "README.md").read_text()
    assert "- t: the code of transformers for RWKV-7 expects attention as wide as the model" in card
    assert str(tmp_path) not in card


def test_shards(small: Path, tmp_path: Path) -> None:
    report = export(small, tmp_path / "t", shard_size=40_000)
    index = settings(tmp_path / "t", "model.safetensors.index.json")
    shards = sorted(set(index["weight_map"].values()))
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    assert len(shards) > 2
    assert index["metadata"]["total_size"] == report.plan.nbytes
    sizes = dict.fromkeys(shards, 0)
    for tensor in report.plan.tensors:
        sizes[index["weight_map"][tensor.name]] += tensor.nbytes
    assert all(size <= 40_000 for size in sizes.values())
    found = {name: array for name, (_, array) in read_all(open_source(tmp_path / "t")).items()}
    for name, array in small_parameters().items():
        np.testing.assert_array_equal(found[name], array)


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(small: Path, tmp_path: Path) -> None:
    report = export(small, tmp_path / "t", shard_size=1)
    weights = [file for file in report.plan.files if file.name.endswith(".safetensors")]
    assert len(weights) == len(report.plan.tensors)


def test_more_shards_than_a_reader_opens(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.formats.writers.huggingface.MAX_SHARDS", 4)
    message = r"shard size: expected at most 4 files of weights, got \d+ of 1 B; choose a larger size"
    with pytest.raises(ConfigError, match=message):
        plan_export(small, tmp_path / "t", shard_size=1)


def test_the_model_card(small: Path, tmp_path: Path) -> None:
    report = export(small, tmp_path / "t")
    card = (tmp_path / "t" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"| SHA-256 of the source | `{report.source_sha256}` |" in card
    assert "| source | `small.safetensors` (safetensors) |" in card
    assert "| precision | every number as in the source |" in card
    rounded = export(small, tmp_path / "half", dtype="bf16")
    card = (tmp_path / "half" / "README.md").read_text()
    assert f"16 of {len(rounded.plan.tensors)} tensors rounded: relative error " in card
    error = rounded.rounding["head.weight"]
    assert f"| head | {error.relative:.2e} | {error.largest:.2e} |" in card
    assert "| vector |" not in card


def test_the_card_does_not_name_local_folders(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "small.safetensors", random_checkpoint(CONFIGS["rwkv7"]))
    convert(tmp_path / "small.safetensors", tmp_path / "q.h5", dtype="q8")
    export(tmp_path / "q.h5", tmp_path / "t")
    card = (tmp_path / "t" / "README.md").read_text()
    assert re.search(r"\n- q\.h5: \d+ matrices are quantized \(q8\)", card)
    assert str(tmp_path) not in card


def test_names_in_the_model_card_are_harmless(tmp_path: Path) -> None:
    source = write_safetensors(tmp_path / "`a|b`<img>.safetensors", small_parameters())
    export(source, tmp_path / "t")
    card = (tmp_path / "t" / "README.md").read_text()
    assert "# ?a?b??img?" in card
    assert "<img" not in card


def world(size: int = 262) -> bytes:
    """Return a World vocabulary: single bytes, tokens of every form of literal, and pairs of bytes."""
    tokens = [b"", *(bytes([byte]) for byte in range(256)), b"'\"", "é".encode(), b"\xff\xfe", b"a b", b"\n\\x"]
    pairs = (bytes(divmod(number, 256)) for number in range(65_536))
    tokens += [pair for pair in pairs if pair not in tokens][: size - len(tokens)]
    lines = (f"{number} {token!r} {len(token)}\n" for number, token in enumerate(tokens) if token)
    return "".join(lines).encode()


def test_a_world_vocabulary(tmp_path: Path) -> None:
    config = Config(d_model=8, num_layers=1, vocab_size=65_536)
    source = write_safetensors(tmp_path / "s.safetensors", random_checkpoint(config))
    (tmp_path / "v.txt").write_bytes(world(65_530))
    export(source, tmp_path / "t", tokenizer=str(tmp_path / "v.txt"))
    found = load(tmp_path / "t").tokenizer
    assert isinstance(found, WorldTokenizer)
    assert found.to_bytes() == find_tokenizer(tmp_path / "v.txt").to_bytes()
    assert settings(tmp_path / "t", "generation_config.json")["eos_token_id"] == 0
    assert settings(tmp_path / "t", "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    (tmp_path / "t" / "rwkv_vocab_v20230424.txt").unlink()
    again = load(tmp_path / "t").tokenizer
    assert isinstance(again, WorldTokenizer)
    assert again.to_bytes() == found.to_bytes()


def test_a_small_vocabulary_with_bytes_for_id_0(tmp_path: Path) -> None:
    """It has a text, and needs code from the hub: a tokenizer.json would have no name for what it cannot encode."""
    config = Config(d_model=8, num_layers=1, vocab_size=3)
    source = write_safetensors(tmp_path / "s.safetensors", random_checkpoint(config))
    (tmp_path / "v.json").write_text('{"0": "a", "1": "b", "2": "ab"}')
    export(source, tmp_path / "t", tokenizer=str(tmp_path / "v.json"))
    assert not (tmp_path / "t" / "tokenizer.json").exists()
    assert settings(tmp_path / "t", "tokenizer_config.json")["tokenizer_class"] == "RwkvTokenizer"
    tokenizer = load(tmp_path / "t").tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("aba") == [2, 0]


def test_the_published_text_of_a_vocabulary() -> None:
    tokens = parse_text(world())
    text = published_text(tokens)
    assert parse_text(text) == tokens
    assert text.splitlines()[-5:] == [
        b"257 '\\'\"' 2",
        "258 'é' 2".encode(),
        b"259 b'\\xff\\xfe' 2",
        b"260 'a b' 3",
        b"261 '\\n\\\\x' 3",
    ]


def test_no_tokenizer(small: Path, tmp_path: Path) -> None:
    export(small, tmp_path / "t", tokenizer="none")
    assert not list((tmp_path / "t").glob("tokenizer*"))
    assert settings(tmp_path / "t")["eos_token_id"] == 0


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Return a folder with an older model in it."""
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "config.json").write_text("older")
    (folder / "model.safetensors").write_text("older")
    return folder


def test_an_older_model_is_replaced_as_a_whole(small: Path, older: Path) -> None:
    (older / "pytorch_model.bin").write_text("older")
    with pytest.raises(StorageError, match="t already exists; choose another name or pass --force"):
        export(small, older)
    assert plan_export(small, older).replaces
    export(small, older, overwrite=True)
    assert not (older / "pytorch_model.bin").exists()
    load(older)


@pytest.mark.parametrize("other", ["thesis.docx", "config.json/"])
def test_a_folder_with_something_else_is_not_replaced(small: Path, tmp_path: Path, other: str) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "README.md").write_text("x")
    (tmp_path / "t" / other).mkdir() if other.endswith("/") else (tmp_path / "t" / other).write_text("x")
    with pytest.raises(StorageError, match="expected a folder that holds a model and nothing else"):
        export(small, tmp_path / "t", overwrite=True)
    assert (tmp_path / "t" / "README.md").read_text() == "x"


def test_a_program_with_a_config_is_not_replaced(small: Path, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for name in ("config.json", "main.py", "README.md", "requirements.txt"):
        (tmp_path / "t" / name).write_text("x")
    with pytest.raises(StorageError, match="expected a folder that holds a model and nothing else"):
        export(small, tmp_path / "t", overwrite=True)
    assert (tmp_path / "t" / "main.py").read_text() == "x"


def test_an_error_half_way_leaves_the_older_folder(small: Path, older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: TranslatedSource, name: str, buffer: Any, start: int = 0) -> None:
        if name == "head.weight":
            raise FormatError("damaged")
        buffer[:] = 0

    monkeypatch.setattr(TranslatedSource, "read_into", fail)
    with pytest.raises(FormatError, match="damaged"):
        export(small, older, overwrite=True, shard_size=40_000)
    assert sorted(path.name for path in older.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in older.parent.iterdir()) == [small.name, "t"]


def test_the_folder_of_the_source_is_no_target(small: Path, tmp_path: Path) -> None:
    export(small, tmp_path / "t")
    with pytest.raises(StorageError, match="t is the folder of the source; name another"):
        export(tmp_path / "t", tmp_path / "t", overwrite=True)
    with pytest.raises(StorageError, match="is the folder of the source; name another"):
        export(small, tmp_path, overwrite=True)


def test_what_cannot_be_a_folder_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none: no such folder; create it first"):
        export(small, tmp_path / "none" / "t")
    with pytest.raises(StorageError, match="is a file, not a folder; choose another name"):
        export(small, small, format="huggingface", overwrite=True)
