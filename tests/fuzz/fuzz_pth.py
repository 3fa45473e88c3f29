"""Fuzz targets: files of torch.save, of both formats and deflated, and the pickle interpreter alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from formats.converted import converted_archive
from formats.make_pth import (
    NONE,
    ORDERED_DICT,
    Zip,
    archive,
    call,
    deflated,
    dictionary,
    integer,
    integers,
    legacy,
    legacy_checkpoint,
    name,
    parameter,
    pickled,
    sequence,
    small_arrays,
    storage,
    tensor,
    text,
    zip_checkpoint,
)
from fuzz import repair
from fuzz.reading import read_file
from fuzz.target import Target
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.pickle_vm import ByteStream, unpickle
from rwkv_cy.formats.state_dict import find_state_dict
from rwkv_cy.formats.torch_objects import TorchObjects
from rwkv_cy.formats.torch_tensors import place_tensors
from rwkv_cy.formats.zip_directory import Place

_SHARED = storage("FloatStorage", "0", 4)
_METADATA = dictionary({"_metadata": ORDERED_DICT + b"(" + text("") + dictionary({"version": b"K\x01"}) + b"u"})
_MODULE = (
    ORDERED_DICT
    + b"("
    + text("a")
    + parameter(tensor(_SHARED, (2, 2)))
    + text("b")
    + tensor(_SHARED, (2,), offset=2)
    + b"u"
    + _METADATA
    + b"b"
)


def _unchecked(whole: Zip) -> bytes:
    """Without checksums, so that damage reaches the pickle machine."""
    return Zip([replace(entry, crc=0) for entry in whole.entries], wide=whole.wide, align=whole.align).to_bytes()


def _deflated(whole: Zip) -> Zip:
    return Zip([deflated(str(entry.name), entry.data) for entry in whole.entries])


#: What training programs save beside a model.
_BESIDE = dictionary(
    {
        "model": dictionary({"blocks.0.att.key.weight": tensor(_SHARED, (2, 2), (1, 2))}),
        "optimizer": dictionary({"state": b"}" + integer(0) + dictionary({"exp_avg": tensor(_SHARED, (4,))}) + b"s"}),
        "step": tensor(storage("LongStorage", "1", 1), ()),
        "shape": call(name("torch", "Size"), integers([2, 2])),
        "set": call(name("builtins", "set"), b"]" + integer(1) + b"a"),
        "attributes": call(
            name("torch._tensor", "_rebuild_from_type_v2"),
            name("torch._utils", "_rebuild_tensor"),
            name("torch", "Tensor"),
            sequence(_SHARED, integer(0), integers([4]), integers([1])),
            dictionary({"note": NONE}),
        ),
        "float8": call(
            name("torch._utils", "_rebuild_tensor_v3"),
            *(storage("UntypedStorage", "2", 4).replace(b"ctorch\n", b"ctorch.storage\n"), integer(0)),
            *(integers([4]), integers([1]), NONE, NONE, name("torch", "float8_e4m3fn")),
        ),
    }
)
_CONVERTED = {
    "emb.weight": ("f16", np.ones((2, 3), "<f2")),
    "blocks.1.att.output.weight": ("i8", np.arange(6, dtype=np.uint8).reshape(2, 3).T),
    **{f"blocks.1.att.output.weight_{name}": ("f16", np.ones(3, "<f2")) for name in ("my", "ry")},
    **{f"blocks.1.att.output.weight_{name}": ("f16", np.ones(2, "<f2")) for name in ("mx", "rx")},
    "blocks.1.att.time_decay": ("f32", np.full(2, -1, "<f4")),
    "blocks.1.ffn.value.weight": ("f32", np.ones((2, 3), "<f4").T),
}

ZIPS = (
    _unchecked(archive(_BESIDE, [bytes(16), bytes(8), bytes(4)])),
    _unchecked(_deflated(zip_checkpoint(small_arrays()))),
    _unchecked(converted_archive(_CONVERTED, rescale_layer=1)),
    zip_checkpoint(small_arrays(), align=64).to_bytes(),
    _unchecked(zip_checkpoint(small_arrays(), wide=True)),
    _unchecked(archive(_MODULE, [bytes(16)])),
    _unchecked(archive(dictionary({"state_dict": _MODULE, "epoch": NONE}), [bytes(16)], align=8)),
)
STREAMS = (
    legacy_checkpoint(small_arrays()),
    legacy(
        dictionary({"a": tensor(storage("FloatStorage", "0", 4, NONE), (2, 2), (1, 2)), "epoch": integer(3)}),
        {"0": (4, bytes(16))},
    ),
)
PICKLES = tuple(pickled(body) for body in (_BESIDE, _MODULE, dictionary({"state_dict": _MODULE, "epoch": NONE})))
_PATH = Path("data.pkl")
_WORDS = (
    *(b"c%s\n%s\n" % tuple(name.encode().rsplit(b".", 1)) for name in TorchObjects(_PATH).allowed),
    *(text(word) for word in ("storage", "cpu", "0", "state_dict", "blocks.0.att.key.weight")),
)


def read_checkpoint(data: bytes) -> None:
    """Open a file of these bytes by its content, and read all of it."""
    read_file(data, open_checkpoint)


def read_pickle(data: bytes) -> None:
    """Interpret a pickle, and place the tensors that it describes, without a file."""
    stream = ByteStream(_PATH, lambda offset, size: data[offset : offset + size], 0, len(data))
    objects = TorchObjects(_PATH)
    state = find_state_dict(_PATH, unpickle(stream, objects.allowed, objects.storage))
    if stream.position > len(data):
        raise AssertionError(f"the pickle of {len(data)} bytes ends at {stream.position}")
    places = {tensor.storage.key: Place(0) for tensor in state.usable.values()}
    placed = place_tensors(_PATH, state.usable, places)
    if placed.keys() & state.left_out.keys():
        raise AssertionError("a tensor is placed and left out")


TARGETS = (
    Target("pth-zip", lambda: ZIPS, read_checkpoint, repair.zip_archive, _WORDS),
    Target("pth-legacy", lambda: STREAMS, read_checkpoint, words=_WORDS),
    Target("pickle", lambda: PICKLES, read_pickle, words=_WORDS),
)
