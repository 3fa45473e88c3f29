"""Folders loaded by transformers: the logits and the tokenizer of the model that was exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.toolkit.export import export

torch = pytest.importorskip("torch", reason="loads exports with transformers: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="pip install transformers")
pytestmark = pytest.mark.oracle

TEXT = "In the beginning é\n"


@pytest.mark.parametrize("shard_size", [5_000_000_000, 1_000_000])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_rwkv4(
    demo_checkpoint: Path, demo: LanguageModel, tmp_path: Path, heldout: bytes, shard_size: int, dtype: str
) -> None:
    export(demo_checkpoint, tmp_path / "t", dtype=dtype, shard_size=shard_size)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "t", dtype=torch.float32)
    assert type(model).__name__ == "RwkvForCausalLM"
    tokens = list(heldout[:200])
    with torch.no_grad():
        found = model.eval()(torch.tensor([tokens])).logits[0].numpy()
    expected, _ = demo.forward(tokens, all_logits=True)
    tolerance = {"f32": 2e-5, "f16": 1e-3}[dtype]
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_a_tokenizer_of_bytes(demo_checkpoint: Path, tmp_path: Path) -> None:
    export(demo_checkpoint, tmp_path / "t")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    assert tokenizer(TEXT)["input_ids"] == list(TEXT.encode())
    assert tokenizer.decode(list(TEXT.encode())) == TEXT
