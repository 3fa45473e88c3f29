"""Detection of the version from names and shapes; unsupported versions are refused by name."""

from __future__ import annotations

import pytest

from rwkv_cy.architectures import ARCHITECTURES, check_parameters, detect
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


@pytest.mark.parametrize(
    "name", ["blocks.1", "blocks.01.x", "blocks..x", "blocks.\u0661.x", "blocks.1000000.x", "x.1.y"]
)
def test_what_is_no_number_of_a_layer(name: str) -> None:
    from rwkv_cy.architectures.shapes import count_layers

    assert count_layers({"blocks.0.x": (1,), name: (1,)}, "x") == 1


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
