"""Which version a file holds: told from names and shapes, and refused by name where it is not supported."""

from __future__ import annotations

import re

import pytest

from rwkv_cy.architectures import ARCHITECTURES, check_parameters, detect, version_label
from rwkv_cy.config import Config
from rwkv_cy.errors import SpecError, UnsupportedError

CONFIG = Config(d_model=8, num_layers=3, vocab_size=10, d_att=12, d_ffn=20)


def shapes() -> dict[str, tuple[int, ...]]:
    return {spec.name: spec.shape for spec in ARCHITECTURES["rwkv4"].parameters(CONFIG)}


def test_dimensions_are_read_off_the_shapes() -> None:
    assert detect(shapes(), "x") == CONFIG
    check_parameters(CONFIG, shapes(), "x")


def test_order_of_names_does_not_matter() -> None:
    assert detect(dict(reversed(shapes().items())), "x") == CONFIG


@pytest.mark.parametrize(
    ("label", "extra"),
    [
        ("RWKV-5.0", {"blocks.0.att.ln_x.weight": (8,)}),
        ("RWKV-5.1", {"blocks.0.att.ln_x.weight": (8,), "blocks.0.att.gate.weight": (8, 8)}),
        ("RWKV-5.2", {"blocks.0.att.ln_x.weight": (8,), "blocks.0.att.time_decay": (2, 4)}),
        ("RWKV-6", {"blocks.0.att.time_maa_x": (1, 1, 8)}),
        ("RWKV-7a", {"blocks.0.att.r_k": (2, 4), "blocks.0.ffn.s_emb.weight": (8, 8)}),
        ("RWKV-7b", {"blocks.0.att.r_k": (2, 4), "blocks.0.qkv.x": (8,)}),
        ("RWKV-6a, 6b or 6c", {"blocks.0.att.gate_w1": (8, 8)}),
        ("RWKV-6a, 6b or 6c", {"blocks.0.att.time_maa_rkvw_w1": (8, 8)}),
        ("a LoRA adapter", {"blocks.0.att.key.lora_A": (8, 8)}),
    ],
)
def test_what_is_known_and_not_supported(label: str, extra: dict[str, tuple[int, ...]]) -> None:
    tensors = {**shapes(), **extra}
    assert version_label(tensors) == label
    with pytest.raises(
        UnsupportedError, match=re.escape(f"model.pth: expected a model of RWKV-4, RWKV-7, found {label}")
    ):
        detect(tensors, "model.pth")


def test_a_state_file() -> None:
    with pytest.raises(UnsupportedError, match="found a state file"):
        detect({"blocks.0.att.time_state": (2, 4, 4)}, "state.pth")


def test_something_else_altogether() -> None:
    with pytest.raises(UnsupportedError, match="expected the parameters of an RWKV model.*such as a, b"):
        detect({"b": (1,), "a": (2,)}, "x")
    with pytest.raises(UnsupportedError, match="such as none"):
        detect({}, "x")


def test_a_gap_in_the_layers() -> None:
    tensors = {name: shape for name, shape in shapes().items() if not name.startswith("blocks.1.")}
    with pytest.raises(SpecError, match=r"x: expected layers 0 to 2 without a gap, found none of blocks\.1\."):
        detect(tensors, "x")


def test_a_part_of_a_model() -> None:
    tensors = shapes()
    del tensors["emb.weight"]
    with pytest.raises(SpecError, match=r"x: emb\.weight: expected this parameter, found none"):
        detect(tensors, "x")
    tensors["emb.weight"] = (80,)
    with pytest.raises(SpecError, match=r"x: emb\.weight: expected a matrix that is not empty, got shape \(80,\)"):
        detect(tensors, "x")
    tensors["emb.weight"] = (0, 8)
    with pytest.raises(SpecError, match=r"got shape \(0, 8\)"):
        detect(tensors, "x")


def test_everything_wrong_is_named_at_once() -> None:
    tensors = shapes()
    del tensors["blocks.1.ln1.bias"]
    del tensors["ln_out.weight"]
    tensors["blocks.2.att.key.weight"] = (12, 9)
    tensors["extra.weight"] = (1,)
    with pytest.raises(SpecError) as caught:
        check_parameters(CONFIG, tensors, "model.pth")
    message = str(caught.value)
    assert message.startswith("model.pth: ")
    for part in (
        "missing blocks.1.ln1.bias (8,)",
        "missing ln_out.weight (8,)",
        "unexpected extra.weight (1,)",
        "blocks.2.att.key.weight: expected shape (12, 8), got (12, 9)",
    ):
        assert part in message


def test_a_thousand_problems_make_no_endless_message() -> None:
    with pytest.raises(SpecError, match="and [0-9]+ more"):
        check_parameters(CONFIG, {f"x{i}": (1,) for i in range(1000)}, "x")


def test_layers_of_different_widths() -> None:
    tensors = shapes()
    tensors["blocks.2.ffn.key.weight"] = (24, 8)
    with pytest.raises(SpecError, match=r"blocks\.2\.ffn\.key\.weight: expected shape \(20, 8\), got \(24, 8\)"):
        check_parameters(detect(tensors, "x"), tensors, "x")


def test_no_layers_at_all() -> None:
    from rwkv_cy.architectures.shapes import count_layers

    with pytest.raises(SpecError, match=r"x: expected parameters of layers \(blocks\.0\. \.\.\.\), found none"):
        count_layers({"emb.weight": (10, 8)}, "x")


def test_a_layer_of_one_tensor_each_is_not_compared_with_whole_ones() -> None:
    """The table of 90,000 layers would take a minute and a gigabyte."""
    shapes = {
        "emb.weight": (2, 1),
        "blocks.0.att.key.weight": (1, 1),
        "blocks.0.ffn.key.weight": (4, 1),
        "blocks.0.att.time_mix_k": (1,),
        **{f"blocks.{i}.x": (1,) for i in range(1, 90_000)},
    }
    config = detect(shapes, "f")
    assert config.num_layers == 90_000
    with pytest.raises(
        SpecError, match=r"f: expected about \d+ parameters for 90000 layers, got 90003; the file is no"
    ):
        check_parameters(config, shapes, "f")


def test_a_decay_of_one_column_is_not_5_2() -> None:
    names = ("blocks.0.att.ln_x.weight", "blocks.0.att.gate.weight")
    shapes = {**dict.fromkeys(names, (4,)), "blocks.0.att.time_decay": (2, 1)}
    assert version_label(shapes) == "RWKV-5.1"
    assert version_label({**shapes, "blocks.0.att.time_decay": (2, 2)}) == "RWKV-5.2"
