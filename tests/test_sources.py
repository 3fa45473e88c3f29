from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_small
from rwkv_cy.convert import convert
from rwkv_cy.errors import SpecError
from rwkv_cy.parameters import TensorInfo
from rwkv_cy.sources import open_source, source_config
from rwkv_cy.storage import open_model, write_model


def test_an_embedding_in_blocks_is_refused(tmp_path: Path) -> None:
    """convert never writes one, and no kernel reads a row of one."""
    convert(write_small(tmp_path / "s"), tmp_path / "m")
    with open_model(tmp_path / "m") as model:
        infos = [model.info(name) for name in model.names()]
        changed = [
            TensorInfo(info.name, info.shape, "q8", "", "q8", 0) if info.name == "emb.weight" else info
            for info in infos
        ]

        def read(info: TensorInfo, start: int, count: int) -> np.ndarray:
            whole = np.zeros(math.prod(info.array_shape), "u1" if info.dtype == "q8" else "<f4")
            return whole[start : start + count]

        write_model(tmp_path / "forged", model.header, changed, read)
    with (
        open_source(tmp_path / "forged") as source,
        pytest.raises(SpecError, match="emb.weight: expected numbers that are not quantized, got q8; convert the orig"),
    ):
        source_config(source)
