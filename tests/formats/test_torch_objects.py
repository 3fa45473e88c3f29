"""Storages and tensors that a torch pickle describes: valid descriptions, and those that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.make_pth import (
    FALSE,
    LAUGHS,
    NONE,
    ORDERED_DICT,
    TRUE,
    call,
    contiguous,
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
from rwkv_cy.formats import torch_objects, torch_tensors
from rwkv_cy.formats.pickle_vm import ByteStream, Global, Ignored, unpickle
from rwkv_cy.formats.raw import RawTensor
from rwkv_cy.formats.torch_objects import TorchObjects
from rwkv_cy.formats.torch_tensors import Storage, Tensor, Unusable, place_tensors
from rwkv_cy.formats.zip_directory import Place

HERE = Path("model")
FLOATS = storage("FloatStorage", "0", 12)
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
FROM_TYPE = name("torch._tensor", "_rebuild_from_type_v2")
FLOAT_TYPE = name("torch", "FloatStorage")


def load(body: bytes, *, views: bool = False) -> object:
    data = pickled(body)
    objects = TorchObjects(HERE, views=views)
    stream = ByteStream(HERE, lambda offset, size: data[offset : offset + size], 0, len(data))
    return unpickle(stream, objects.allowed, objects.storage)


def place(body: bytes) -> RawTensor:
    made = load(body)
    assert isinstance(made, Tensor)
    return place_tensors(HERE, {"w": made}, {"0": Place(1000)})["w"]


def left_out(body: bytes) -> str | None:
    """What a tensor is that no model can have."""
    made = load(body)
    assert isinstance(made, Tensor | Unusable)
    return made.left_out


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


@pytest.mark.parametrize("shape", [(-1,), (1 << 63,), (1 << 100,), (-(1 << 63), -1)])
def test_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match=r"w: expected dimensions from 1 to 2\*\*48"):
        place(tensor(FLOATS, shape, [1] * len(shape)))


def test_shapes_whose_product_wraps() -> None:
    with pytest.raises(FormatError, match=r"w: expected at most 2\*\*48 elements"):
        place(tensor(FLOATS, (1 << 32, 1 << 32), (1 << 32, 1)))
    with pytest.raises(FormatError, match="w: expected at most 8 dimensions, got 9"):
        place(tensor(FLOATS, (1,) * 9))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("LongStorage", "int64"), ("ByteStorage", "uint8"), ("BoolStorage", "bool")),
        *(("ComplexFloatStorage", "complex64"), ("QInt8Storage", "qint8")),
    ],
)
def test_numbers_that_are_not_weights(kind: str, dtype: str) -> None:
    assert left_out(tensor(storage(kind, "0", 4), (2, 2))) == f"{dtype}, shape (2, 2)"


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 1 << 48)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    assert left_out(tensor(storage("FloatStorage", "0", 0), shape, [1] * len(shape))) == f"empty float32, shape {shape}"


def test_a_left_out_shape_is_not_walked() -> None:
    for sizes in (LAUGHS, integers([0] * 9), integers([1 << 2000]), integers([-1])):
        body = REBUILD + b"(" + FLOATS + integer(0) + sequence(integer(0), sizes) + b")" + FALSE + ORDERED_DICT + b"tR"
        assert left_out(body) == "empty float32"


REBUILD_TYPED = name("torch._utils", "_rebuild_tensor_v3")
BYTES = storage("UntypedStorage", "0", 48).replace(b"ctorch\n", b"ctorch.storage\n")


def typed(dtype: str, shape: tuple[int, ...], *flags: bytes, offset: int = 0) -> bytes:
    parts = (BYTES, integer(offset), integers(shape), integers(contiguous(shape)), FALSE, ORDERED_DICT)
    return call(REBUILD_TYPED, *parts, name("torch", dtype), *flags)


def test_types_that_are_stored_as_bytes() -> None:
    assert left_out(typed("float8_e4m3fn", (4, 12))) == "float8_e4m3fn, shape (4, 12)"
    assert left_out(typed("uint16", (24,))) == "uint16, shape (24,)"
    placed = place(typed("bfloat16", (2, 3), NONE, offset=18))
    assert (placed.offset, placed.info.dtype, placed.info.source_nbytes) == (1000 + 36, "bf16", 12)
    with pytest.raises(FormatError, match="w: expected elements within the 12 of its storage, got 1 to 13"):
        place(typed("float32", (12,), offset=1))


@pytest.mark.parametrize("flags", [{}, {"neg": FALSE}, {"conj": FALSE, "neg": FALSE}])
def test_flags_that_change_nothing(flags: dict[str, bytes]) -> None:
    assert place(flagged(dictionary(flags))).info.shape == (12,)
    assert place(typed("float32", (12,), dictionary(flags))).info.shape == (12,)


def flagged(flags: bytes) -> bytes:
    return call(REBUILD, FLOATS, integer(0), integers([12]), integers([1]), FALSE, ORDERED_DICT, flags)


def test_views_that_are_negated() -> None:
    assert left_out(flagged(dictionary({"neg": TRUE}))) == "a view that negates or conjugates its numbers"


ATTRIBUTES = dictionary({"note": integer(1), "_is_buffer": TRUE})
RAW = sequence(FLOATS, integer(0), integers([3, 4]), integers([4, 1]), FALSE, ORDERED_DICT)


@pytest.mark.parametrize(
    "body",
    [
        call(name("torch._utils", "_rebuild_tensor"), FLOATS, integer(0), integers([3, 4]), integers([4, 1])),
        call(name("torch._utils", "_rebuild_parameter_with_state"), tensor(FLOATS, (3, 4)), TRUE, NONE, ATTRIBUTES),
        call(name("torch._tensor", "_rebuild_from_type_v2"), REBUILD, name("torch", "Tensor"), RAW, ATTRIBUTES),
        name("torch.nn.parameter", "Parameter") + sequence(tensor(FLOATS, (3, 4)), TRUE) + b"\x81",
        tensor(FLOATS, (3, 4)).replace(integers((3, 4)), call(name("torch", "Size"), integers((3, 4)))),
    ],
    ids=["older", "parameter with attributes", "tensor with attributes", "new object", "torch.Size"],
)
def test_other_ways_to_make_a_tensor(body: bytes) -> None:
    assert place(body).info.shape == (3, 4)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("_rebuild_sparse_tensor", "a sparse tensor"),
        ("_rebuild_meta_tensor_no_storage", "a meta tensor, which has no numbers"),
        ("_rebuild_qtensor", "a tensor quantized by torch"),
        ("_rebuild_nested_tensor", "a nested tensor"),
    ],
)
def test_tensors_that_are_not_arrays_in_the_file(function: str, what: str) -> None:
    assert left_out(call(name("torch._utils", function), NONE, NONE)) == what
    assert left_out(parameter(call(name("torch._utils", function), NONE, NONE))) == what


@pytest.mark.parametrize(
    "body",
    [
        call(name("torch", "device"), text("cuda"), integer(0)),
        call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo")),
        call(name("collections", "Counter"), dictionary({"a": integer(1)})),
        call(name("__builtin__", "bytearray"), call(name("_codecs", "encode"), text("x"), text("latin1"))),
        call(name("__builtin__", "set"), b"]"),
        call(name("builtins", "frozenset"), b"]"),
        call(name("builtins", "complex"), integer(1), integer(2)),
        call(name("builtins", "bytes")),
    ],
)
def test_values_that_are_ignored(body: bytes) -> None:
    assert isinstance(load(body), Ignored)


def test_an_ordered_dictionary_of_python_2() -> None:
    pairs = b"](" + sequence(text("a"), integer(1)) + sequence(text("b"), integer(2)) + b"e"
    assert load(call(name("collections", "OrderedDict"), pairs)) == {"a": 1, "b": 2}
    assert load(call(name("collections", "OrderedDict"), b"]")) == {}


def test_one_list_of_pairs_is_not_copied_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_objects, "MAX_OPERATIONS", 6)
    pairs = b"](" + sequence(text("a"), NONE) + sequence(text("b"), NONE) + b"eq\x00"
    make = name("collections", "OrderedDict") + b"h\x00\x85R"
    assert load(b"(" + pairs + 3 * make + b"t") is not None
    with pytest.raises(FormatError, match="expected at most 6 pairs for OrderedDicts, got more"):
        load(b"(" + pairs + 4 * make + b"t")


def test_types_and_schemes_are_values_too() -> None:
    for title in ("float32", "float8_e5m2", "int1", "per_tensor_affine", "Tensor"):
        assert isinstance(load(name("torch", title)), Global)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (call(name("torch._utils", "_rebuild_tensor_v2")), "expected a storage, an offset, a shape and strides"),
        (call(REBUILD, NONE, integer(0), b")", b")", FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, text("0"), b")", b")", FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, integer(0), b"]", b")", FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, integer(0), b")", NONE, FALSE, ORDERED_DICT), "expected a storage, an offset"),
        (call(REBUILD, FLOATS, integer(0), b")"), "expected a storage, an offset"),
        (call(REBUILD_TYPED, NONE), "expected a storage, an offset, a shape, strides and a type"),
        (call(REBUILD_TYPED, BYTES, integer(0), b")", b")", FALSE, NONE, NONE), "strides and a type of a tensor"),
        (call(REBUILD_TYPED, BYTES, integer(0), b")", b")", FALSE, NONE, FLOAT_TYPE), "strides and a type of a tensor"),
        (flagged(integer(1)), "expected the flags of a tensor, got another value"),
        (
            call(name("torch._tensor", "_rebuild_from_type_v2"), NONE),
            "expected a function that makes a tensor, a class",
        ),
        (
            call(FROM_TYPE, FROM_TYPE, name("torch", "Tensor"), sequence(), NONE),
            "expected a function that makes a tensor, a class",
        ),
        (call(FROM_TYPE, FLOAT_TYPE, name("torch", "Tensor"), sequence(), NONE), "expected a function that makes"),
        (call(name("torch", "Size"), NONE), "expected the dimensions of a shape, got other arguments"),
        (parameter(NONE), "expected the tensor of a parameter, got other arguments"),
        (
            call(name("collections", "OrderedDict"), NONE),
            "expected an OrderedDict of pairs, each with a name of",
        ),
        (call(name("collections", "OrderedDict"), b"]", b"]"), "expected an OrderedDict of pairs, each with a name of"),
        (
            call(name("collections", "OrderedDict"), b"]" + sequence(text("a")) + b"a"),
            "expected an OrderedDict of pairs",
        ),
        (call(name("collections", "OrderedDict"), b"]" + sequence(b"]", NONE) + b"a"), "expected an OrderedDict of pa"),
        (
            call(name("collections", "OrderedDict"), b"](" + 2 * sequence(text("a"), NONE) + b"e"),
            "expected an OrderedDict of pairs, each with a name of its own",
        ),
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
        (sequence(FLOATS, storage("HalfStorage", "0", 12)), "storage '0' as 12 of float32, got it again as 12 of fl"),
        (sequence(FLOATS, storage("FloatStorage", "0", 13)), "'0' as 12 of float32, got it again as 13 of float32"),
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
    monkeypatch.setattr(torch_tensors, "MAX_TENSORS", 1)
    with pytest.raises(FormatError, match="expected at most 1 storages, got more"):
        load(sequence(FLOATS, storage("FloatStorage", "1", 12)))


def test_laughs_are_not_walked() -> None:
    for part in (integer(0) + LAUGHS + integers([1]), integer(0) + integers([1]) + LAUGHS):
        with pytest.raises(FormatError):
            place(REBUILD + b"(" + FLOATS + part + FALSE + ORDERED_DICT + b"tR")


def test_tied_weights_share_their_bytes() -> None:
    weight = tensor(FLOATS, (12,)) + b"q\x05"
    root = load(dictionary({"a": weight, "b": b"h\x05"}))
    assert isinstance(root, dict)
    assert isinstance(root["a"], Tensor)
    placed = place_tensors(HERE, root, {"0": Place(8)})
    assert placed["a"].offset == placed["b"].offset == 8
