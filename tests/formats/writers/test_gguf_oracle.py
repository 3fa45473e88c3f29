"""GGUF exports read by the gguf package: every key, every tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formats.writers.gguf_models import CONFIGS, parameters_of, write_source
from rwkv_cy.toolkit.export import export

gguf = pytest.importorskip("gguf", reason="reads exports with gguf: pip install gguf")

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_gguf_reads_what_is_written(tmp_path: Path, dtype: str) -> None:
    config = CONFIGS["rwkv7, heads of 64"]
    parameters = parameters_of(config)
    report = export(write_source(tmp_path / "s", config), tmp_path / "t.gguf", dtype=dtype, tokenizer="bytes")
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    assert reader.get_field("general.architecture").contents() == "rwkv7"
    assert reader.get_field("rwkv7.attention.layer_norm_epsilon").contents() == pytest.approx(1e-5, rel=1e-6)
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    assert tokens[:256] == [repr(bytes([byte]))[2:-1] for byte in range(256)]
    assert tokens[256:] == [f"[PAD{number}]" for number in range(256, 300)]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors) == [tensor.name for tensor in report.plan.tensors]
    names = {tensor.parameters: tensor for tensor in report.plan.tensors}
    for name in ("emb.weight", "head.weight", "blocks.1.att.output.weight", "blocks.2.ffn.value.weight", "ln_out.bias"):
        tensor = tensors[names[(name,)].name]
        kind = gguf.GGMLQuantizationType[names[(name,)].dtype.upper()]
        assert tensor.tensor_type == kind
        expected = gguf.quants.quantize(parameters[name], kind)
        assert np.ascontiguousarray(tensor.data).tobytes() == expected.tobytes()
