"""Storages and tensors that a torch pickle describes: valid descriptions, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.make_pth import (
    FALSE,
    NONE,
    ORDERED_DICT,
    TRUE,
    call,
    dictionary,
    integer,
    integers,
    name,
    parameter,
    pickled,
    sequence,
    storage,
    tensor,
    text,
)
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats import torch_objects
from rwkv_cy.formats.pickle_vm import ByteStream, unpickle
from rwkv_cy.formats.raw import RawTensor
from rwkv_cy.formats.torch_objects import Storage, Tensor, TorchObjects, place_tensors, state_dict

HERE = Path("model")
FLOATS = storage("FloatStorage", "0", 12)
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
FLOAT_TYPE = name("torch", "FloatStorage")


def load(body: bytes, *, views: bool = False) -> object:
    data = pickled(body)
    objects = TorchObjects(HERE, views=views)
    stream = ByteStream(HERE, lambda offset, size: data[offset : offset + size], 0, len(data))
    return unpickle(stream, objects.allowed, objects.storage)


def place(body: bytes) -> RawTensor:
    tensors, _ = state_dict(HERE, load(dictionary({"w": body})))
    return place_tensors(HERE, tensors, {"0": 1000})["w"]


def test_a_tensor() -> None:
    placed = place(tensor(FLOATS, (2, 3), offset=4))
    assert placed.offset == 1000 + 16
    assert (placed.info.shape, placed.info.dtype, placed.info.source_nbytes) == ((2, 3), "f32", 24)


def test_a_parameter() -> None:
    assert place(parameter(tensor(FLOATS, (12,)))).info.shape == (12,)


@pytest.mark.parametrize("strides", [(12, 1), (1, 1), (7, 1)])
def test_strides_of_single_rows_do_not_matter(strides: tuple[int, int]) -> None:
    assert place(tensor(FLOATS, (1, 12), strides)).info.shape == (1, 12)


def test_a_scalar() -> None:
    assert place(tensor(FLOATS, (), offset=11)).offset == 1000 + 44


@pytest.mark.parametrize(
    ("shape", "strides", "nbytes"),
    [
        ((3, 4), (1, 3), 48),  # transposed
        ((3, 4), (0, 1), 16),  # the same row again
        ((3, 4), (0, 0), 4),
        ((3, 4), (2, 1), 32),  # overlapping
        ((2, 4), (6, 1), 32),  # with gaps
        ((6,), (2,), 24),
    ],
)
def test_strides(shape: tuple[int, ...], strides: tuple[int, ...], nbytes: int) -> None:
    placed = place(tensor(FLOATS, shape, strides))
    assert (placed.info.shape, placed.strides, placed.info.source_nbytes) == (shape, strides, nbytes)


def test_contiguous_tensors_have_no_strides() -> None:
    assert place(tensor(FLOATS, (3, 4), (4, 1))).strides is None


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((3, 4), (4, -1)), ((3, 4), (-4, 1)), ((12,), (1 << 62,)), ((12,), ()), ((12,), (1, 1)), ((), (1,))],
)
def test_strides_that_are_refused(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match=r"model: w: expected a stride from 0 to 2\*\*48 for each dimension of shape"):
        place(tensor(FLOATS, shape, strides))


@pytest.mark.parametrize(("shape", "strides"), [((3, 4), (5, 1)), ((3, 4), (1, 4)), ((12,), (2,)), ((2,), (1 << 48,))])
def test_strides_that_leave_the_storage(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="w: expected elements within the 12 of its storage, got 0 to"):
        place(tensor(FLOATS, shape, strides))


def test_strides_that_are_no_integers() -> None:
    body = call(REBUILD, FLOATS, integer(0), integers([12]), sequence(text("1")), FALSE, ORDERED_DICT)
    with pytest.raises(FormatError, match=r"a stride .* for each dimension of shape .*, got others"):
        place(body)


@pytest.mark.parametrize(
    ("shape", "offset"), [((13,), 0), ((12,), 1), ((1,), 12), ((1,), -1), ((1,), 1 << 63), ((1 << 40,), 0), ((2, 7), 0)]
)
def test_tensors_that_leave_their_storage(shape: tuple[int, ...], offset: int) -> None:
    with pytest.raises(FormatError, match="w: expected elements within the 12 of its storage"):
        place(tensor(FLOATS, shape, offset=offset))


@pytest.mark.parametrize("shape", [(0,), (-1,), (2, 0), (1 << 63,), (1 << 100,), (-(1 << 63), -1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match=r"w: expected dimensions from 1 to 2\*\*48"):
        place(tensor(FLOATS, shape, [1] * len(shape)))


def test_shapes_whose_product_wraps() -> None:
    with pytest.raises(FormatError, match=r"w: expected at most 2\*\*48 elements"):
        place(tensor(FLOATS, (1 << 32, 1 << 32), (1 << 32, 1)))
    with pytest.raises(FormatError, match="w: expected at most 8 dimensions, got 9"):
        place(tensor(FLOATS, (1,) * 9))


@pytest.mark.parametrize("kind", ["LongStorage", "ByteStorage", "BoolStorage", "ComplexFloatStorage", "QInt8Storage"])
def test_numbers_that_are_no_weights(kind: str) -> None:
    with pytest.raises(UnsupportedError, match=f"w: expected numbers of type float64, .* got {kind}"):
        place(tensor(storage(kind, "0", 4), (4,)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (call(name("torch._utils", "_rebuild_tensor_v2")), "expected a storage, an offset, a shape and strides"),
        (call(REBUILD, NONE, integer(0), b")", b")", FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, text("0"), b")", b")", FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, integer(0), b"]", b")", FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, integer(0), b")", NONE, FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, integer(0), b")", b")"), "expected a storage, an offset"),
        (parameter(NONE), "expected the tensor of a parameter, got other arguments"),
        (call(name("collections", "OrderedDict"), b"]"), "expected an OrderedDict that begins empty"),
        (call(name("_codecs", "encode"), text("x"), text("zip")), "expected text that stands for bytes"),
        (call(name("_codecs", "encode"), text("x")), "expected text that stands for bytes"),
        (call(FLOAT_TYPE, integer(3)), "expected a function and its arguments, got torch.FloatStorage"),
        (NONE + b"Q", "expected the id of a storage, got another NoneType"),
        (sequence() + b"Q", "expected the id of a storage"),
        (sequence(text("module"), FLOAT_TYPE, text("0"), text("cpu"), integer(1)) + b"Q", "expected the id of a st"),
        (sequence(text("storage"), text("FloatStorage"), text("0"), text("cpu"), integer(1)) + b"Q", "the id of a st"),
        (sequence(text("storage"), name("_codecs", "encode"), text("0"), text("cpu"), integer(1)) + b"Q", "the id of"),
        (sequence(text("storage"), FLOAT_TYPE, integer(0), text("cpu"), integer(1)) + b"Q", "expected the id of a st"),
        (storage("FloatStorage", "0", -1), "expected the id of a storage"),
        (storage("FloatStorage", "0", 1, NONE), "expected the id of a storage"),
        (
            sequence(FLOATS, storage("HalfStorage", "0", 12)),
            "storage '0' as 12 of FloatStorage, got it again as 12 of H",
        ),
        (sequence(FLOATS, storage("FloatStorage", "0", 13)), "'0' as 12 of FloatStorage, got it again as 13 of Float"),
    ],
)
def test_claims(body: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        load(body)


def test_views_of_storages() -> None:
    assert isinstance(load(storage("FloatStorage", "0", 4, NONE), views=True), Storage)
    assert isinstance(load(storage("FloatStorage", "0", 4), views=True), Storage)
    with pytest.raises(UnsupportedError, match="expected whole storages, got a view of one"):
        load(storage("FloatStorage", "0", 4, sequence(text("1"), integer(0), integer(2))), views=True)


def test_too_many_storages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_objects, "MAX_TENSORS", 1)
    with pytest.raises(FormatError, match="expected at most 1 storages, got more"):
        load(sequence(FLOATS, storage("FloatStorage", "1", 12)))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_one_level_down(key: str) -> None:
    root = load(dictionary({"epoch": integer(3), key: dictionary({"w": tensor(FLOATS, (12,))})}))
    tensors, others = state_dict(HERE, root)
    assert list(tensors) == ["w"]
    assert others == {}


def test_what_stands_beside_the_tensors() -> None:
    body = {
        "w": tensor(FLOATS, (12,)),
        "epoch": integer(3),
        "note": text("hello"),
        "long": text("x" * 300),
        "bell": text("\a"),
        "done": TRUE,
        "none": NONE,
        "more": dictionary({}),
        "raw": call(name("_codecs", "encode"), text("ÿ"), text("latin1")),
    }
    tensors, others = state_dict(HERE, load(dictionary(body)))
    assert list(tensors) == ["w"]
    assert others == {
        "epoch": "3",
        "note": "hello",
        "long": "x" * 200,
        "bell": "'\\x07'",
        "done": "True",
        "none": "None",
        "more": "(dict)",
        "raw": "(Ignored)",
    }


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (NONE, "None"),
        (b"]", r"\(list\)"),
        (dictionary({}), r"\(dict\)"),
        (dictionary({"a": integer(1)}), r"\(dict\)"),
        (dictionary({"state_dict": dictionary({})}), r"\(dict\)"),
        (tensor(FLOATS, (12,)), r"\(Tensor\)"),
    ],
)
def test_no_dictionary_of_tensors(body: bytes, shown: str) -> None:
    with pytest.raises(
        FormatError, match=f"expected a dictionary of tensors, or one under .*, got {shown}; save the w"
    ):
        state_dict(HERE, load(body))


def test_names_of_tensors() -> None:
    weight = tensor(FLOATS, (12,))
    for title in ("", "../x", "/x", "a\0b", "x" * 513):
        with pytest.raises(FormatError, match="model: expected the name of a tensor"):
            state_dict(HERE, load(dictionary({title: weight})))
    with pytest.raises(FormatError, match="expected a tensor's name as text, got int"):
        state_dict(HERE, load(b"}" + integer(1) + weight + b"s"))


def test_a_checkpoint_converted_for_a_strategy() -> None:
    with pytest.raises(UnsupportedError, match="got one that the rwkv package converted"):
        state_dict(HERE, load(dictionary({"w": tensor(FLOATS, (12,)), "_strategy": text("cpu fp32")})))


def test_laughs_are_not_printed() -> None:
    levels = b"".join(b"(h" + bytes([i]) + b"h" + bytes([i]) + b"tq" + bytes([i + 1]) for i in range(100))
    laughs = b"(]q\x00" + levels + b"t"
    with pytest.raises(FormatError, match=r"got \(tuple\)"):
        state_dict(HERE, load(laughs))
    assert state_dict(HERE, load(dictionary({"w": tensor(FLOATS, (12,)), "ha": laughs})))[1] == {"ha": "(tuple)"}
    for part in (integer(0) + laughs + integers([1]), integer(0) + integers([1]) + laughs):
        with pytest.raises(FormatError):
            place(REBUILD + b"(" + FLOATS + part + FALSE + ORDERED_DICT + b"tR")


def test_tied_weights_share_their_bytes() -> None:
    weight = tensor(FLOATS, (12,)) + b"q\x05"
    root = load(dictionary({"a": weight, "b": b"h\x05"}))
    assert isinstance(root, dict)
    assert isinstance(root["a"], Tensor)
    placed = place_tensors(HERE, state_dict(HERE, root)[0], {"0": 8})
    assert placed["a"].offset == placed["b"].offset == 8
