"""Relatives of RWKV: each is recognised by its names and refused with the reason."""

from __future__ import annotations

import re

import pytest

from rwkv_cy.architectures import ARCHITECTURES, detect, version_label
from rwkv_cy.architectures.relatives import RELATIVES
from rwkv_cy.config import Config
from rwkv_cy.errors import UnsupportedError

Shapes = dict[str, tuple[int, ...]]

FOUR: Shapes = {
    spec.name: spec.shape for spec in ARCHITECTURES["rwkv4"].parameters(Config(d_model=8, num_layers=2, vocab_size=10))
}
#: RWKV-4 without what makes it one: what all versions have.
ANY: Shapes = {name: shape for name, shape in FOUR.items() if ".time_" not in name}
FIVE = {**FOUR, "blocks.0.att.ln_x.weight": (8,), "blocks.0.att.time_decay": (2,)}
SIX = {**ANY, "blocks.0.att.ln_x.weight": (8,), "blocks.0.att.time_maa_x": (1, 1, 8)}
SEVEN = {**ANY, "blocks.0.att.ln_x.weight": (8,), "blocks.0.att.r_k": (2, 4)}
QWEN = {"model.embed_tokens.weight": (10, 8), "model.layers.0.self_attn.q_proj.weight": (8, 8)}


def plus(base: Shapes, *names: str) -> Shapes:
    return {**base, **dict.fromkeys(names, (8, 8))}


KEEPS = "whose attention keeps every past token"
ALONE = "which has to be merged into its model first"
UNMERGED = "which have to be merged into its matrices first"
CASES: list[tuple[str, str, Shapes]] = [
    ("a LoRA adapter", ALONE, plus({}, "blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B", "blocks.0.ln1.weight")),
    ("a LoRA adapter", ALONE, plus({}, "base_model.model.blocks.0.att.key.lora_A.weight")),
    (
        "a LoRA adapter",
        ALONE,
        plus({}, "blocks.0.att.key.lora.0", "blocks.0.att.key.lora.1", "blocks.0.att.time_decay"),
    ),
    ("a model with unmerged LoRA adapters", UNMERGED, plus(FOUR, "blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B")),
    ("a model with unmerged LoRA adapters", UNMERGED, plus(SEVEN, "blocks.0.ffn.key.lora_B")),
    (
        "a model with unmerged LoRA adapters",
        UNMERGED,
        plus({}, "a.key.base_layer.weight", "a.key.lora_A.default.weight"),
    ),
    ("a model with unmerged LoRA adapters", UNMERGED, plus(FOUR, "blocks.0.att.key.weight.lora.0")),
    ("a PiSSA adapter", ALONE, plus({}, "blocks.0.att.key.init_lora_A", "blocks.0.att.key.init_lora_B")),
    ("a model with unmerged PiSSA adapters", UNMERGED, plus(FOUR, "blocks.0.att.key.init_lora_A")),
    ("a DiSHA adapter", ALONE, plus({}, "blocks.0.att.key.disha")),
    ("a model with unmerged DiSHA adapters", UNMERGED, plus(SEVEN, "blocks.0.att.key.disha")),
    ("a Bone adapter", ALONE, plus({}, "blocks.0.att.key.bone")),
    ("a model with unmerged Bone adapters", UNMERGED, plus(SIX, "blocks.0.att.key.bone")),
    ("a LoRA adapter", ALONE, plus({}, "base_model.model.emb.lora_embedding_A.default")),
    ("a LoRA adapter", ALONE, plus({}, "base_model.model.blocks.0.att.key.lora_magnitude_vector.default.weight")),
    ("a state file (time_state only)", "load_state or --state", plus({}, "blocks.0.att.time_state")),
    ("RWKV-X", KEEPS, plus({f"rwkv.{name}": shape for name, shape in SEVEN.items()}, "moba.0.att.key.weight")),
    ("RWKV-X", KEEPS, plus({}, "module.rwkv.blocks.0.att.r_k", "module.moba.0.ln1.weight")),
    (
        "QRWKV (Qwen2 with mixes of RWKV-6)",
        "needs a transformer's layers",
        plus(QWEN, "model.layers.0.self_attn.time_maa_x"),
    ),
    (
        "ARWKV (Qwen2 with mixes of RWKV-7)",
        "needs a transformer's layers",
        plus({}, "model.layers.0.self_attn.time_mixer.x_r"),
    ),
    (
        "HRWKV (RWKV-7 beside attention)",
        "some of whose layers are a transformer's",
        plus(QWEN, "model.layers.0.self_attn.receptance.weight"),
    ),
    (
        "HRWKV (RWKV-7 beside attention)",
        "some of whose layers are a transformer's",
        plus(SEVEN, "blocks.0.att.ln_r.weight"),
    ),
    ("RWKV with attention layers", KEEPS, plus(SEVEN, "blocks.1.att.q_proj.weight")),
    ("RWKV with attention layers", KEEPS, plus(SIX, "blocks.1.att.q_proj.weight")),
    ("a transformer", "which is not an RWKV model", QWEN),
    ("RWKV-8 with ROSA", "whose state grows with the text", plus({}, "blocks.0.rosa.q.weight", "head.weight")),
    ("RWKV-8 with ROSA", "whose state grows with the text", plus({}, "e.weight", "rosa1.q.weight", "rwkv1.r_k")),
    ("RWKV-7b", KEEPS, plus(SEVEN, "blocks.0.ffn.s_emb.weight", "blocks.0.qkv.qq.weight")),
    ("RWKV-8 rc00-hybrid", KEEPS, plus(SEVEN, "blocks.0.ffn.enn.weight", "blocks.0.qkv.qq.weight")),
    ("a variant of RWKV-7 with attention (qkv)", KEEPS, plus(SEVEN, "blocks.0.qkv.qq.weight")),
    ("RWKV-6b or 6c", "cannot be told apart", plus(SIX, "blocks.0.att.time_maa_rkvw_w1")),
    ("RWKV-6a", "no weights were published", plus(SIX, "blocks.0.att.gate_w1")),
    ("RWKV-2", "mixes keys, values and receptance with the same", plus(ANY, "blocks.0.att.time_mix", "head_q.weight")),
    ("RWKV-3", "limits its keys", {**FOUR, "blocks.0.att.time_decay": (8, 1), "head_q.weight": (8, 8)}),
    (
        "a model trained with pre_ffn",
        "a channel mix in place of the time mix",
        plus({n: s for n, s in FOUR.items() if not n.startswith("blocks.0.att.")}, "blocks.0.ffnPre.key.weight"),
    ),
    ("RWKV-4a or 4b", KEEPS, plus(FOUR, "blocks.1.tiny_q.weight")),
    ("a training-only variant of RWKV-4", "no weights were published", plus(FOUR, "head_q.weight", "copy_mask")),
    ("a training-only variant of RWKV-4", "no weights were published", plus(FOUR, "blocks.0.att.qq.weight")),
    ("a training-only variant of RWKV-4", "no weights were published", plus(FOUR, "blocks.0.ffn.aa.weight")),
]
#: What is run, told from few tensors.
VERSIONS: list[tuple[str, Shapes]] = [
    ("RWKV-4", FOUR),
    ("RWKV-5.0", FIVE),
    ("RWKV-5.0", {**FIVE, "blocks.0.att.time_decay": (2, 1)}),
    ("RWKV-5.1", plus(FIVE, "blocks.0.att.gate.weight")),
    ("RWKV-5.1", {**plus(FIVE, "blocks.0.att.gate.weight"), "blocks.0.att.time_decay": (2, 1)}),
    ("RWKV-5.2", {**FIVE, "blocks.0.att.time_decay": (2, 4)}),
    ("RWKV-5.2", {**plus(FIVE, "blocks.0.att.gate.weight"), "blocks.0.att.time_decay": (2, 4)}),
    ("RWKV-6", SIX),
    ("RWKV-7", SEVEN),
    ("RWKV-7a", plus(SEVEN, "blocks.0.ffn.s_emb.weight", "blocks.0.ffn.s_emb_x.weight")),
    ("RWKV-8 rc00", plus(SEVEN, "blocks.0.ffn.enn.weight")),
]
SUPPORTED = {architecture.label for architecture in ARCHITECTURES.values()}


@pytest.mark.parametrize(("label", "reason", "shapes"), CASES, ids=[label for label, *_ in CASES])
def test_refused_by_name(label: str, reason: str, shapes: Shapes) -> None:
    for tensors in (shapes, dict(reversed(shapes.items()))):
        assert version_label(tensors) == label
        with pytest.raises(UnsupportedError, match=re.escape(label) + ".*" + re.escape(reason)) as error:
            detect(tensors, "model.pth")
        assert str(error.value).startswith("model.pth: expected a model of RWKV-4")


@pytest.mark.parametrize(("label", "shapes"), VERSIONS)
def test_versions_are_told_apart(label: str, shapes: Shapes) -> None:
    for tensors in (shapes, dict(reversed(shapes.items()))):
        assert version_label(tensors) == label


def test_every_version_has_a_case() -> None:
    assert {label for label, _ in VERSIONS} == SUPPORTED


def test_every_relative_has_a_case() -> None:
    assert {relative.label for relative in RELATIVES} <= {label for label, *_ in CASES}


def test_every_reason_says_what_to_do() -> None:
    assert [relative.label for relative in RELATIVES if relative.reason and "; " not in relative.reason] == []


def test_no_supported_version_is_in_the_lists() -> None:
    assert SUPPORTED.isdisjoint(relative.label for relative in RELATIVES)


def test_supported_versions_are_no_relatives() -> None:
    for architecture in ARCHITECTURES.values():
        config = architecture.complete(Config(d_model=64, num_layers=2, vocab_size=10, architecture=architecture.name))
        shapes = {spec.name: spec.shape for spec in architecture.parameters(config)}
        assert version_label(shapes) == architecture.label


@pytest.mark.parametrize("name", ["blocks.0.att.loraine.weight", "blocks.0.att.prosa.weight", "rosary.weight"])
def test_parts_of_other_words_mean_nothing(name: str) -> None:
    assert version_label(plus(FOUR, name)) == "RWKV-4"
