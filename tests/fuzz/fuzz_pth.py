"""Fuzz target: checkpoints recognised by content; the seeds are files of torch.save, both formats."""

from __future__ import annotations

from dataclasses import replace

from formats.make_pth import (
    NONE,
    ORDERED_DICT,
    Zip,
    archive,
    dictionary,
    legacy_checkpoint,
    parameter,
    small_arrays,
    storage,
    tensor,
    text,
    zip_checkpoint,
)
from fuzz.reading import read_file
from rwkv_cy.formats import open_checkpoint

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


SEEDS = (
    zip_checkpoint(small_arrays(), align=64).to_bytes(),
    _unchecked(zip_checkpoint(small_arrays(), wide=True)),
    _unchecked(archive(_MODULE, [bytes(16)])),
    _unchecked(archive(dictionary({"state_dict": _MODULE, "epoch": NONE}), [bytes(16)], align=8)),
    legacy_checkpoint(small_arrays()),
)


def fuzz_one(data: bytes) -> None:
    """Open a file of these bytes by its content, and read all of it."""
    read_file(data, open_checkpoint)
