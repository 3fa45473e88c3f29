"""Model files with a forged header and matching checksums: refused, or harmless."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import rwkv_cy
from rwkv_cy.errors import FormatError, TokenizerError
from rwkv_cy.toolkit.convert import convert
from storage.small import forge

HEADER = "metadata/header"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, kjv_checkpoint: Path) -> Path:
    target = tmp_path_factory.mktemp("forged") / "model.h5"
    convert(kjv_checkpoint, target)
    return target


def forged(model: Path, folder: Path, old: bytes, new: bytes) -> Path:
    path = folder / "forged.h5"
    shutil.copy(model, path)
    forge(path, lambda text: text.replace(old, new), HEADER)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"vocab_size":256', b'"vocab_size":16777216', "expected a header that fits the parameters"),
        (b'"d_ffn":', b'"d_ffn":9', "expected a header that fits the parameters"),
        (b'"num_layers":6', b'"num_layers":7', "expected a header that fits the parameters"),
        (b'"d_model":128', b'"d_model":18446744073709551615', "Config.d_model: expected an integer from 1"),
        (b'"rescale_layer":0', b'"rescale_layer":-1', "Config.rescale_layer: expected an integer from 0"),
        (b'"compute_dtype":"f32"', b'"compute_dtype":"f16"', "Config.compute_dtype: expected 'f32' or 'f64'"),
        (b"1e-05", b"1e400", "Config.layer_norm_eps: expected a positive number, got inf"),
        (b"1e-05", b"0.0", "Config.layer_norm_eps: expected a positive number, got 0.0"),
        (b"1e-05", b"true", "Config.layer_norm_eps: expected a positive number, got True"),
        (b"1e-05", b"9" * 5000, "header: expected a plain JSON object, got an integer of 5000 digits"),
        (b'"fingerprint":"', b'"fingerprint":NaN,"x":"', "header: expected a plain JSON object, got NaN"),
        (b'"source":{', b'"source":{},"source":{', "header: expected a plain JSON object, got the key 'source' twice"),
        (b'"source":{', b'"x":' + b"[" * 40 + b"]" * 40 + b',"source":{', "more than 32 levels of nesting"),
    ],
)
def test_refused(model: Path, tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        rwkv_cy.load(forged(model, tmp_path, old, new))


@pytest.mark.parametrize("kind", [b"world", b"huggingface"])
def test_a_tokenizer_that_is_not_there(model: Path, tmp_path: Path, kind: bytes) -> None:
    loaded = rwkv_cy.load(forged(model, tmp_path, b'"kind":"bytes"', b'"kind":"' + kind + b'"'))
    with pytest.raises(TokenizerError, match="tokenizer: (expected a|not a tokenizer.json)"):
        loaded.generate("And")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rescale_layer":0', b'"rescale_layer":16777216'),
        (b"1e-05", b"9" * 20),
        (b'"compute_dtype":"f32"', b'"compute_dtype":"f64"'),
    ],
)
def test_odd_but_possible(model: Path, tmp_path: Path, old: bytes, new: bytes) -> None:
    loaded = rwkv_cy.load(forged(model, tmp_path, old, new))
    assert len("".join(loaded.generate("And", max_tokens=2, seed=1))) > 0
