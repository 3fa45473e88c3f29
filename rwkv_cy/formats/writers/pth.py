"""Writer of PyTorch checkpoints (``.pth``): a state dict as torch.save writes it, without torch.

The archive has the entries of torch 2.13: ``data.pkl`` with the state dict, one entry ``data/N`` for each tensor, and
the small ones that tell versions and byte order. torch maps and reads such files with ``weights_only=True``.
"""

from __future__ import annotations

from collections.abc import Sequence

from rwkv_cy.formats.signatures import LEGACY_MAGIC
from rwkv_cy.formats.writers.base import ExportedModel, ExportFormat, StoredTensor, TargetFile
from rwkv_cy.formats.writers.state_dict import state_dict
from rwkv_cy.formats.writers.zip_archive import ALIGNMENT, ZIP_SIGNATURE, ZipItem, zip_file

__all__ = ["PthFormat", "archive"]

#: Folder of all entries; torch takes the name of the file, or this one when it has none.
_FOLDER = "archive"


class PthFormat(ExportFormat):
    """A PyTorch checkpoint in the zip format."""

    name = "pth"
    label = "PyTorch .pth"
    suffixes = (".pth", ".pt")
    signatures = (ZIP_SIGNATURE, LEGACY_MAGIC)
    layouts = ("original",)

    def files(self, model: ExportedModel, tensors: Sequence[StoredTensor]) -> Sequence[TargetFile]:
        """Return the one file."""
        return (archive(tensors),)


def archive(tensors: Sequence[StoredTensor]) -> TargetFile:
    """Return the archive of a state dict; each tensor is contiguous, in a storage of its own."""
    items = [
        ZipItem.of_bytes("data.pkl", state_dict(tensors)),
        ZipItem.of_bytes(".format_version", b"1"),
        ZipItem.of_bytes(".storage_alignment", str(ALIGNMENT).encode()),
        ZipItem.of_bytes("byteorder", b"little"),
        *(ZipItem.of_tensor(f"data/{key}", tensor) for key, tensor in enumerate(tensors)),
        ZipItem.of_bytes("version", b"3\n"),
    ]
    return zip_file("", _FOLDER, items)
