"""Folders loaded by transformers: the logits and the tokenizer of the model that was exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from rwkv_cy.config import Config
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text.tokenizers import find_tokenizer, published_text
from rwkv_cy.text.tokenizers.vocabulary import WORLD_SIZE
from rwkv_cy.toolkit.export import export
from text.samples import world_tokens

torch = pytest.importorskip("torch", reason="loads exports with transformers: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers", reason="pip install transformers")
pytestmark = pytest.mark.oracle

TEXT = "In the beginning é\n"


@pytest.mark.parametrize("shard_size", [5_000_000_000, 1_000_000])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_rwkv4(
    kjv_checkpoint: Path, kjv: LanguageModel, tmp_path: Path, heldout: bytes, shard_size: int, dtype: str
) -> None:
    export(kjv_checkpoint, tmp_path / "t", dtype=dtype, shard_size=shard_size)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "t", dtype=torch.float32)
    assert type(model).__name__ == "RwkvForCausalLM"
    tokens = list(heldout[:200])
    with torch.no_grad():
        found = model.eval()(torch.tensor([tokens])).logits[0].numpy()
    expected, _ = kjv.forward(tokens, all_logits=True)
    tolerance = {"f32": 2e-5, "f16": 1e-3}[dtype]
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_a_tokenizer_of_bytes(kjv_checkpoint: Path, tmp_path: Path) -> None:
    export(kjv_checkpoint, tmp_path / "t")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    assert tokenizer(TEXT)["input_ids"] == list(TEXT.encode())
    assert tokenizer.decode(list(TEXT.encode())) == TEXT


def test_a_world_vocabulary_without_code_from_the_hub(tmp_path: Path) -> None:
    config = Config(d_model=8, num_layers=1, vocab_size=WORLD_SIZE)
    source = write_safetensors(tmp_path / "s.safetensors", random_checkpoint(config))
    (tmp_path / "v.txt").write_bytes(published_text(world_tokens()))
    export(source, tmp_path / "t", tokenizer=str(tmp_path / "v.txt"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    ours = find_tokenizer(tmp_path / "v.txt")
    assert theirs.eos_token_id == 0
    for text in (TEXT, "In the \u4eba\n\nhe\t\t", "a'b \U0001f642\U0001f642" * 20, "\x00 \x7f"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
