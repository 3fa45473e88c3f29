"""The HDF5 model file: its schema, writer and reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rwkv_cy.lazy import names_from

if TYPE_CHECKING:
    from rwkv_cy.storage.arrays import read_arrays, write_arrays
    from rwkv_cy.storage.reader import ModelFile, open_model
    from rwkv_cy.storage.replaceable import check_replaceable
    from rwkv_cy.storage.schema import MODEL_KIND, ModelHeader, StoredTokenizer
    from rwkv_cy.storage.signature import MODEL_FORMAT, is_model_file
    from rwkv_cy.storage.verification import VerifyReport
    from rwkv_cy.storage.writer import needed_bytes, write_model

__all__ = [
    "MODEL_FORMAT",
    "MODEL_KIND",
    "ModelFile",
    "ModelHeader",
    "StoredTokenizer",
    "VerifyReport",
    "check_replaceable",
    "is_model_file",
    "needed_bytes",
    "open_model",
    "read_arrays",
    "write_arrays",
    "write_model",
]

__getattr__ = names_from(
    __name__,
    {
        "arrays": ("read_arrays", "write_arrays"),
        "reader": ("ModelFile", "open_model"),
        "replaceable": ("check_replaceable",),
        "schema": ("MODEL_KIND", "ModelHeader", "StoredTokenizer"),
        "signature": ("MODEL_FORMAT", "is_model_file"),
        "verification": ("VerifyReport",),
        "writer": ("needed_bytes", "write_model"),
    },
)
