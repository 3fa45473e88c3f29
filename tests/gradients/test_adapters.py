"""Adapters in recorded passes: the model of the merged weights, and gradients of the factors."""

from __future__ import annotations

import numpy as np
import pytest

from gradients.test_language_model import CONFIG, TARGETS, TOKENS, assert_equal, close, random_parameters
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, KernelError
from rwkv_cy.model.gradients import Gradients, LoRA
from rwkv_cy.model.language_model import LanguageModel, load

NAMES = ("blocks.0.att.key.weight", "blocks.2.ffn.value.weight", "blocks.1.att.output.weight")


def adapters_of(shapes: dict[str, tuple[int, ...]], dtype: type, rank: int = 3) -> dict[str, LoRA]:
    rng = np.random.default_rng(5)
    return {
        name: LoRA(
            rng.standard_normal((rank, shapes[name][1])).astype(dtype) * 0.2,
            rng.standard_normal((shapes[name][0], rank)).astype(dtype) * 0.2,
            0.5,
        )
        for name in shapes
    }


def test_factors_get_the_gradients_of_the_merged_model() -> None:
    parameters = random_parameters(CONFIG)
    adapters = adapters_of({name: parameters[name].shape for name in NAMES}, np.float64)
    merged = {name: parameters[name] + lora.scale * lora.b @ lora.a for name, lora in adapters.items()}
    _, _, tape = LanguageModel(CONFIG, {**parameters, **merged}).record(TOKENS, logits=False)
    expected_losses, whole = tape.cross_entropy(TARGETS)
    model = LanguageModel(CONFIG, parameters)
    _, _, tape = model.record(TOKENS, logits=False, adapters=adapters)
    losses, gradients = tape.cross_entropy(TARGETS)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-11)
    expected = {}
    for name, lora in adapters.items():
        stem, d = name.removesuffix(".weight"), whole.parameters[name]
        expected[f"{stem}.lora_A"] = lora.scale * lora.b.T @ d
        expected[f"{stem}.lora_B"] = lora.scale * d @ lora.a.T
    assert_equal(gradients, Gradients(expected, None, None), 1e-10)
    assert close(gradients.inputs, whole.inputs, 1e-10)
    # Both at once: the matrices themselves, and the factors.
    _, _, tape = model.record(TOKENS, logits=False, adapters=adapters, trainable="*")
    _, both = tape.cross_entropy(TARGETS)
    assert_equal(both, Gradients({**whole.parameters, **expected}, None, None), 1e-10)
    # Without adapters, the model is what it was.
    _, _, tape = model.record(TOKENS, logits=False)
    assert set(tape.cross_entropy(TARGETS)[1].parameters) == set(parameters)


@pytest.mark.parametrize("dtype", ["q8", "bf16", "f32"])
def test_adapters_of_stored_precisions(dtype: str, tmp_path: object) -> None:
    config = Config(d_model=64, num_layers=1, vocab_size=256, d_ffn=96)
    LanguageModel(config, random_parameters(config, dtype=np.float32)).save(f"{tmp_path}/model.h5")
    model = load(f"{tmp_path}/model.h5", dtype=dtype)
    names = [name for name in model.parameters if name.endswith(("key.weight", "value.weight", "receptance.weight"))]
    zero = adapters_of({name: model.parameters[name].shape for name in names}, np.float32)
    for lora in zero.values():
        lora.b[...] = 0
    tokens, targets = np.arange(40), np.arange(1, 41)
    _, _, tape = model.record(tokens, logits=False)
    plain, _ = tape.cross_entropy(targets)
    _, _, tape = model.record(tokens, logits=False, adapters=zero)
    losses, gradients = tape.cross_entropy(targets)
    np.testing.assert_allclose(losses, plain, rtol=1e-6)
    # A step down the gradient of the factors lowers the loss by what the gradient says.
    step, rng = 1e-3, np.random.default_rng(6)
    change = 0.0
    for name, lora in zero.items():
        d = gradients.parameters[name.replace(".weight", ".lora_B")]
        assert np.abs(d).max() > 0
        direction = np.sign(d) * rng.random(d.shape)
        lora.b[...] -= np.float32(step) * direction.astype(np.float32)
        change -= step * float((d * direction).sum())
    _, _, tape = model.record(tokens, logits=False, adapters=zero)
    moved, _ = tape.cross_entropy(targets)
    assert moved.mean() - losses.mean() == pytest.approx(change, rel=0.25)


def test_mistakes() -> None:
    model = LanguageModel.new(Config(d_model=8, num_layers=1, vocab_size=11), 0)
    a, b = np.zeros((2, 8), np.float32), np.zeros((8, 2), np.float32)
    with pytest.raises(ConfigError, match=r"adapters: expected names of matrices .* got 'head.weight'"):
        model.record([1], adapters={"head.weight": LoRA(a, b)})
    with pytest.raises(KernelError, match="expected a matrix of"):
        model.record([1], adapters={"blocks.0.att.time_decay": LoRA(a, b)})
    with pytest.raises(KernelError, match=r"expected factors \(rank, 8\) and \(8, rank\)"):
        model.record([1], adapters={"blocks.0.att.key.weight": LoRA(a, b[:4])})
    with pytest.raises(KernelError, match="contiguous factors of an adapter of float32"):
        model.record([1], adapters={"blocks.0.att.key.weight": LoRA(a.astype(np.float64), b)})
    with pytest.raises(ConfigError, match=r"adapters: expected LoRA by name of a matrix, got tuple by 'blocks.0"):
        model.record([1], adapters={"blocks.0.att.key.weight": (a, b)})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="adapters: expected a mapping of names to LoRA, got list"):
        model.record([1], adapters=[LoRA(a, b)])  # type: ignore[arg-type]
