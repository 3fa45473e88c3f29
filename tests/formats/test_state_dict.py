"""Where a checkpoint has its tensors, and what is beside them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from formats.make_pth import (
    FALSE,
    LAUGHS,
    NONE,
    TRUE,
    call,
    dictionary,
    integer,
    integers,
    name,
    storage,
    tensor,
    text,
)
from formats.test_torch_objects import HERE, load
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats.state_dict import StateDict, find_state_dict
from rwkv_cy.formats.torch_objects import Element
from rwkv_cy.formats.torch_tensors import Storage, Tensor, place_tensors

WEIGHT = tensor(storage("FloatStorage", "0", 12), (12,))
EMPTY = tensor(storage("FloatStorage", "1", 0), (0,))
STEP = tensor(storage("LongStorage", "2", 1), (1,))
#: A model, a copy of it, and what an optimizer keeps.
MODEL = dictionary({"blocks.0.att.key.weight": WEIGHT, "emb.weight": WEIGHT})
MOMENTS = b"}(" + integer(0) + dictionary({"exp_avg": WEIGHT, "step": STEP}) + b"u"


def find(body: bytes) -> StateDict:
    return find_state_dict(HERE, load(body))


@pytest.mark.parametrize(
    "keys",
    [
        *([key] for key in ("state_dict", "model", "module", "model_state_dict", "net", "params", "weights", "ema")),
        *(["state"], ["checkpoint", "model"], ["a", "b", "c"]),
    ],
)
def test_weights_below_keys(keys: list[str]) -> None:
    body = MODEL
    for key in reversed(keys):
        body = dictionary({"epoch": integer(3), key: body, "lr_scheduler": dictionary({"last": integer(1)})})
    state = find(body)
    assert list(state.usable) == ["blocks.0.att.key.weight", "emb.weight"]
    assert state.others == state.left_out == {}


def test_weights_too_far_down() -> None:
    body = MODEL
    for key in "abcd":
        body = dictionary({key: body})
    with pytest.raises(FormatError, match="or one within 3 levels of dictionaries, got "):
        find(body)


@pytest.mark.parametrize("beside", [{"scale": WEIGHT}, {"rng_state": STEP, "cuda_rng_state": STEP}])
def test_a_tensor_beside_the_dictionary(beside: dict[str, bytes]) -> None:
    assert list(find(dictionary({**beside, "module": MODEL})).usable) == ["blocks.0.att.key.weight", "emb.weight"]


def test_what_an_optimizer_keeps_is_not_a_model() -> None:
    optimizer = dictionary({"state": MOMENTS, "param_groups": b"]"})
    assert len(find(dictionary({"model": MODEL, "optimizer": optimizer})).usable) == 2


def test_two_models() -> None:
    other = dictionary({"blocks.0.ffn.key.weight": WEIGHT})
    with pytest.raises(
        UnsupportedError,
        match=r"model: expected one dictionary of tensors, got checkpoint\['model'\] \(2 tensors\), "
        r"checkpoint\['train'\]\['ema'\] \(1 tensor\); save the one that is the model, as torch",
    ):
        find(dictionary({"model": MODEL, "train": dictionary({"ema": other})}))


def test_two_dictionaries_without_layers() -> None:
    items = {f"part {i}": dictionary({"w": WEIGHT}) for i in range(7)}
    with pytest.raises(UnsupportedError, match=r"got checkpoint\['part 0'\] \(1 tensor\), .* and 2 more; save the one"):
        find(dictionary(items))


def test_one_model_under_two_keys() -> None:
    body = dictionary({"model": MODEL + b"q\x64", "ema": b"h\x64"})
    assert len(find(body).usable) == 2


def test_a_dictionary_under_very_many_keys_is_walked_once() -> None:
    body = dictionary({"w": NONE}) + b"q\x00"
    for level in range(3):
        keys = b"".join(integer(i) + b"h" + bytes([level]) for i in range(200))
        body += b"}(" + keys + b"uq" + bytes([level + 1])
    with pytest.raises(FormatError, match=r"got \(dict\)"):
        find(b"}(" + text("kept") + b"(" + body + b"t" + text("all") + b"h\x03" + b"u")


def test_keys_that_are_not_text() -> None:
    odd = (
        NONE,
        integer(7),
        b"G" + bytes(8),
        integers([1, 2]),
        TRUE,
        call(name("torch", "device"), text("cpu")),
        LAUGHS,
    )
    pairs = b"".join(key + integer(i) for i, key in enumerate(odd))
    state = find(b"}(" + text("emb.weight") + WEIGHT + pairs + integer(8) + WEIGHT + b"u")
    assert list(state.usable) == ["emb.weight"]
    assert state.others == {}
    assert state.left_out == {"key 8": "a tensor without a name"}


def test_what_is_beside_the_tensors() -> None:
    body = {
        "w": WEIGHT,
        "epoch": integer(3),
        "note": text("hello"),
        "long": text("x" * 300),
        "bell": text("\a"),
        "done": TRUE,
        "none": NONE,
        "more": dictionary({}),
        "raw": call(name("_codecs", "encode"), text("ÿ"), text("latin1")),
        "huge": integer(1 << 2000),
        "ha": LAUGHS,
        "not\0printable": FALSE,
        "x" * 1000: FALSE,
    }
    state = find(dictionary(body))
    assert list(state.tensors) == ["w"]
    assert state.others == {
        "epoch": "3",
        "note": "hello",
        "long": "x" * 200,
        "bell": "'\\x07'",
        "done": "True",
        "none": "None",
        "more": "(dict)",
        "raw": "(Ignored)",
        "huge": str(1 << 2000)[:200],
        "ha": "(tuple)",
    }


def test_what_no_model_can_have() -> None:
    sparse = call(name("torch._utils", "_rebuild_sparse_tensor"), NONE)
    state = find(dictionary({"w": WEIGHT, "step": STEP, "mask": EMPTY, "table": sparse}))
    assert list(state.usable) == ["w"]
    assert state.left_out == {
        "step": "int64, shape (1,)",
        "mask": "empty float32, shape (0,)",
        "table": "a sparse tensor",
    }


def test_a_shape_of_very_many_dimensions_is_not_walked() -> None:
    class Shape(tuple):  # type: ignore[type-arg]
        __slots__ = ()

        def __iter__(self) -> Iterator[object]:
            raise AssertionError("walked")

    element, shape = Element("float32", 4, "f32"), Shape([1] * 100)
    state = find_state_dict(HERE, {"w": Tensor(Storage("0", element, 1), 0, shape, shape, element)})
    assert list(state.usable) == ["w"]
    with pytest.raises(FormatError, match="w: expected at most 8 dimensions, got 100"):
        place_tensors(HERE, state.usable, {})


def test_a_part_of_a_checkpoint() -> None:
    names = [f"blocks.{i}.att.key.weight" for i in range(3)]
    with pytest.raises(
        UnsupportedError, match=r"got 3 empty tensors of 4, as in one rank's part of a DeepSpeed ZeRO-3"
    ):
        find(dictionary({**dict.fromkeys(names, EMPTY), "scale": WEIGHT}))


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (NONE, "None"),
        (b"]", r"\(list\)"),
        (dictionary({}), r"\(dict\)"),
        (dictionary({"a": integer(1)}), r"\(dict\)"),
        (dictionary({"state_dict": dictionary({})}), r"\(dict\)"),
        (b"}" + integer(1) + WEIGHT + b"s", r"\(dict\)"),
        (WEIGHT, r"\(Tensor\)"),
        (LAUGHS, r"\(tuple\)"),
    ],
)
def test_no_dictionary_of_tensors(body: bytes, shown: str) -> None:
    with pytest.raises(
        FormatError, match=f"or one within 3 levels of dictionaries, got {shown}; save the weights alone"
    ):
        find(body)


@pytest.mark.parametrize("title", ["", "../x", "/x", "a\0b", "x" * 513])
def test_names_of_tensors(title: str) -> None:
    with pytest.raises(FormatError, match="model: expected the name of a tensor"):
        find(dictionary({title: WEIGHT}))
