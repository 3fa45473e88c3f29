"""Every architecture in every layout, as a file and as a Hugging Face folder: the same logits, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS, every_logits, tokens_for
from formats.foreign import safetensors_bytes, write_shards
from formats.layouts.test_tables import applied, opened, shapes_of
from formats.sources import read_all
from rwkv_cy.formats.layouts import EXPORT_LAYOUTS, LAYOUTS
from rwkv_cy.formats.layouts.layout import Layout
from rwkv_cy.model.language_model import load

MODELS = {name: random_checkpoint(config) for name, config in CONFIGS.items()}
#: What is written in RWKV-5.2 computes what RWKV-5.1 does.
ALL = dict.fromkeys((*LAYOUTS, *EXPORT_LAYOUTS["web-rwkv"]))
PAIRS = [
    pytest.param(layout, name, id=f"{layout.name}: {name}")
    for layout in ALL
    for name, parameters in MODELS.items()
    if layout.holds(shapes_of(parameters))
]


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_every_layout_gives_the_same_logits(tmp_path: Path, layout: Layout, name: str) -> None:
    config = CONFIGS[name]
    rescale = {"rescale_layer": config.rescale_layer}
    with applied(opened(tmp_path / "original", MODELS[name]), layout) as source:
        foreign = {key: array for key, (_, array) in read_all(source).items()}
    (tmp_path / "file").write_bytes(safetensors_bytes(foreign))
    folder = tmp_path / "folder"
    folder.mkdir()
    write_shards(folder, foreign)
    settings = {"vocab_size": config.vocab_size, "hidden_size": config.d_model, "num_hidden_layers": config.num_layers}
    (folder / "config.json").write_text(json.dumps(settings))
    original = load(tmp_path / "original", **rescale)
    tokens = tokens_for(original, 20)
    expected, _ = every_logits(original, tokens)
    for path in (tmp_path / "file", folder):
        logits, _ = every_logits(load(path, **rescale), tokens)
        assert logits.tobytes() == expected.tobytes()
