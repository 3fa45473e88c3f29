"""The pickle machine: reads what tensors need, refuses everything else, and never executes anything."""

from __future__ import annotations

import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from formats.make_pth import LAUGHS, NONE, call, dictionary, integer, name, pickled, sequence, text
from rwkv_cy.errors import FormatError, UnsupportedError
from rwkv_cy.formats import pickle_vm
from rwkv_cy.formats.pickle_vm import ByteStream, Global, Ignored, unpickle

FUNCTIONS = {
    "here.pair": Global("here.pair", lambda arguments: ("pair", *arguments)),
    "here.Type": Global("here.Type"),
}


def stream_of(data: bytes) -> ByteStream:
    return ByteStream("file", lambda offset, size: data[offset : offset + size], 0, len(data))


def run(
    data: bytes,
    allowed: Mapping[str, Global] = FUNCTIONS,
    persistent: Callable[[object], object] | None = None,
) -> object:
    return unpickle(stream_of(data), allowed, persistent)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        255,
        256,
        65536,
        -1,
        1 << 40,
        -(1 << 100),
        1 << 2030,
        1.5,
        "",
        "ключ",
        "x" * 300,
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, 4),
        [],
        [1],
        [1, "a", None],
        {},
        {"a": 1},
        {"a": {"b": [1, (2.0,)]}, 3: None},
        {str(i): i for i in range(2500)},
    ],
)
def test_reads_what_python_writes(value: object, protocol: int) -> None:
    assert run(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_reads_bytes(protocol: int) -> None:
    assert run(pickle.dumps([b"ab", bytes(300)], protocol)) == [b"ab", bytes(300)]
    assert run(b"\x80\x04\x8e" + struct.pack("<Q", 2) + b"ab.") == b"ab"
    assert run(b"\x80\x04\x8d" + struct.pack("<Q", 2) + b"ab.") == "ab"


def test_shared_parts_stay_shared() -> None:
    shared = ["x"]
    result = run(pickle.dumps([shared, shared], 2))
    assert isinstance(result, list)
    assert result[0] is result[1]
    long_index = pickled(b"]r\x00\x01\x00\x00(j\x00\x01\x00\x00e")
    itself = run(long_index)
    assert isinstance(itself, list)
    assert itself[0] is itself


def test_several_pickles_in_one_stream() -> None:
    data = pickled(integer(1)) + pickled(text("two")) + b"rest"
    stream = stream_of(data)
    assert unpickle(stream, {}) == 1
    assert unpickle(stream, {}) == "two"
    assert stream.position == len(data) - 4


def test_marks_within_marks() -> None:
    assert run(pickled(b"](N(N(t\x86tNe")) == [None, ((None, ()),), None]


def test_calls_and_persistent_ids() -> None:
    assert run(pickled(call(name("here", "pair"), integer(1), NONE))) == ("pair", 1, None)
    assert run(b"\x80\x04" + text("here") + text("pair") + b"\x93)R.") == ("pair",)
    assert run(pickled(name("here", "Type"))) is FUNCTIONS["here.Type"]
    assert run(pickled(sequence(text("id")) + b"Q"), persistent=lambda identity: (identity, "!")) == (("id",), "!")


def test_a_stream_longer_than_its_buffer() -> None:
    value = {f"{i:0100d}": i for i in range(5000)} | {"long": "x" * 200_000}
    assert run(pickle.dumps(value, 2)) == value


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "getattr"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("__builtin__", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("here.pair", "__globals__"),
        ("here", "pair.__globals__"),
        ("", "here.pair"),
        ("x" * 200, "y" * 200),
    ],
)
@pytest.mark.parametrize("by_stack", [False, True])
def test_names_off_the_list(module: str, attribute: str, by_stack: bool) -> None:
    named = text(module) + text(attribute) + b"\x93" if by_stack else name(module, attribute)
    with pytest.raises(UnsupportedError, match=r"expected only what tensors need, got the name .* never run") as caught:
        run(pickled(call(named, text("touch /tmp/x"))))
    assert len(str(caught.value)) < 400


def test_code_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "ran",)

    for protocol in (2, 3, 4, 5):
        with pytest.raises(FormatError):
            run(pickle.dumps({"a": Evil()}, protocol))
    assert not (tmp_path / "ran").exists()


# A longer list is a decision about safety, not a detail.
SAFE = {
    *("MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT1", "BININT2", "BININT", "LONG1", "BINFLOAT", "SHORT_BINSTRING"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM"),
    *("SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET"),
    *("LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "FRAME"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET", "BYTEARRAY8", "NEWOBJ"),
    "STOP",
    "PROTO",
}


@pytest.mark.parametrize("opcode", [o.name for o in pickletools.opcodes if o.name not in SAFE])
def test_opcodes_off_the_list(opcode: str) -> None:
    code = next(ord(o.code) for o in pickletools.opcodes if o.name == opcode)
    with pytest.raises(FormatError, match=f"expected an opcode that tensors need, got {code:#04x}"):
        run(pickled(b"N" + bytes([code]) + bytes(100)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"X\xff\xff\xff\xff", "expected text of at most 1048576 bytes, got 4294967295"),
        (b"\x8d" + b"\xff" * 8, "expected text of at most 1048576 bytes, got 18446744073709551615"),
        (b"B\x01\x00\x10\x00", "expected text of at most 1048576 bytes, got 1048577"),
        (b"X\x05\x00\x00\x00abc", "expected 5 more bytes, got 4"),
        (text(b"\xff\xfe"), "expected text in UTF-8"),
        (text(b"\xed\xa0\x80"), "expected text in UTF-8"),
        (b"c\xff\nx\n", "expected text in UTF-8"),
        (b"c" + b"x" * 300 + b"\n", "expected a name of at most 200 bytes, got more"),
        (b"\x85", "expected an object on the stack, got none"),
        (b"N\x86", "expected an object on the stack, got none"),
        (b"N(\x85", "expected an object on the stack, got none"),
        (b"q\x00", "expected an object on the stack, got none"),
        (b"](a", "expected an object on the stack, got none"),
        (b"]((Nta", "expected an object on the stack, got none"),
        (b"]((Nt\x86", "expected an object on the stack, got none"),
        (b"((Ntet", "expected an object on the stack, got none"),
        (b"t", "expected a mark on the stack, got none"),
        (b"(" * 101, "expected at most 100 marks within each other, got more"),
        (b"(" * 1_000_000, "expected at most 100 marks within each other, got more"),
        (b"h\x00", "expected a memo index that was set before, got 0"),
        (b"Nr\xff\xff\xff\xff", "expected a memo index below 1000000, got 4294967295"),
        (b"Nj\xff\xff\xff\xff", "expected a memo index that was set before, got 4294967295"),
        (b"NNa", "expected a list to append to, got NoneType"),
        (b"N(Ne", "expected a list to append to, got NoneType"),
        (b"NNNs", "expected pairs for a dictionary, got 2 objects for NoneType"),
        (b"}(Nu", "expected pairs for a dictionary, got 1 objects for dict"),
        (b"}(]Nu", "expected keys of a dictionary, got a list"),
        (b"}(}Nu", "expected keys of a dictionary, got a dict"),
        (dictionary([("a", NONE), ("a", NONE)]), "expected each key once, got 'a' twice"),
        (b"NN\x93", "expected a name as text, got NoneType and NoneType"),
        (b"N)R", "expected a function and its arguments, got NoneType and tuple"),
        (name("here", "pair") + b"NR", "expected a function and its arguments, got here.pair and NoneType"),
        (name("here", "Type") + b")R", "expected a function and its arguments, got here.Type and tuple"),
        (b"}Nb", "expected no state but the attributes of a dictionary, got NoneType for dict"),
        (b"}" + sequence(NONE, dictionary({"__dict__": NONE})) + b"b", "got tuple for dict"),
        (name("here", "pair") + dictionary({"_metadata": NONE}) + b"b", "got dict for Global"),
        (b"](N\x90", "expected a set to add to, got list"),
        (b"N)\x81", "expected a function and its arguments, got NoneType and tuple"),
        (b"NQ", "expected no persistent id here, got one"),
        (b".", "expected one object at its end, got 0 and 0 open marks"),
        (b"NN.", "expected one object at its end, got 2 and 0 open marks"),
        (b"(N.", "expected one object at its end, got 1 and 1 open marks"),
    ],
)
def test_damage(body: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        run(pickled(body))


@pytest.mark.parametrize("head", [b"\x80\x01N.", b"\x80\x06N.", b"(dp0\n.", b"N.", b"}."])
def test_other_protocols(head: bytes) -> None:
    with pytest.raises(FormatError, match="expected a pickle of protocol 2 to 5, got bytes"):
        run(head)


@pytest.mark.parametrize("state", [{"_metadata": dictionary({})}, {}, {"__class__": NONE, "x": NONE}])
def test_attributes_of_a_dictionary_are_ignored(state: dict[str, bytes]) -> None:
    result = run(pickled(dictionary({"a": integer(1)}) + dictionary(state) + b"b"))
    assert type(result) is dict
    assert result == {"a": 1}


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("value", [{1, 2}, frozenset({1}), set()])
def test_sets_are_ignored(value: object, protocol: int) -> None:
    result = run(pickle.dumps([value, 7], protocol))
    assert isinstance(result, list)
    assert isinstance(result[0], Ignored)
    assert result[1] == 7


def test_bytes_that_can_change() -> None:
    assert run(pickle.dumps(bytearray(b"abc"), 5)) == b"abc"


def test_texts_of_python_2() -> None:
    assert run(b"\x80\x02U\x03abc.") == "abc"


@pytest.mark.parametrize("key", [None, True, 1.5, 7, "x", b"x"])
def test_plain_keys(key: object) -> None:
    assert run(pickle.dumps({key: 1}, 4)) == {key: 1}


def test_other_keys_are_ignored() -> None:
    result = run(pickle.dumps({(1, 2): "a", (1, 3): "b", frozenset({1}): "c"}, 4))
    assert isinstance(result, dict)
    assert all(isinstance(key, Ignored) for key in result)
    assert list(result.values()) == ["a", "b", "c"]


def test_limits_of_work_and_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_vm, "MAX_STACK", 10)
    with pytest.raises(FormatError, match="expected a stack of at most 10, got more"):
        run(pickled(b"N" * 11))
    monkeypatch.setattr(pickle_vm, "MAX_STACK", 10_000)
    monkeypatch.setattr(pickle_vm, "MAX_OPERATIONS", 1000)
    with pytest.raises(FormatError, match="expected at most 1000 opcodes, got more"):
        run(pickled(b"N" * 1000))
    monkeypatch.setattr(pickle_vm, "MAX_TEXT_BYTES", 3)
    assert run(pickled(text("abc"))) == "abc"


def test_billion_laughs_cost_nothing() -> None:
    assert isinstance(run(pickled(LAUGHS)), tuple)
    as_key = run(pickled(b"}" + LAUGHS + b"Ns"))
    assert isinstance(as_key, dict)
    assert len(as_key) == 1
    with pytest.raises(FormatError, match="expected no state but the attributes of a dictionary, got tuple for dict"):
        run(pickled(b"}" + LAUGHS + b"b"))


def test_deep_nesting_does_not_recurse() -> None:
    result = run(pickled(b")" + b"\x85" * 100_000))
    assert isinstance(result, tuple)


def test_cut_at_every_length() -> None:
    data = pickle.dumps({"a": [1, 2.5, "text", (True, None)], "b": 1 << 70}, 2)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            run(data[:length])
