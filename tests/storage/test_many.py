"""Files with as many datasets as the largest models, and with more than the format allows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.errors import SpecError
from rwkv_cy.storage import needed_bytes, open_model, write_model
from rwkv_cy.storage.index import Entry, index_capacity, pack_index, unpack_index
from rwkv_cy.storage.schema import MAX_DATASETS, DatasetSpec, parameter_path
from rwkv_cy.tensors.tensor import TensorInfo
from storage.small import HEADER


def tensors(layers: int, per_layer: int) -> list[TensorInfo]:
    """Tensors with names as long as those of version 7."""
    return [
        TensorInfo(f"blocks.{layer}.att.receptance.weight.{i}", (1, 1, 2), "bf16", "", "bf16", 4)
        for layer in range(layers)
        for i in range(per_layer)
    ]


@pytest.mark.slow
def test_a_thousand_layers_of_version_7(tmp_path: Path) -> None:
    infos = tensors(1000, 33)
    numbers = {info.name: i for i, info in enumerate(infos)}

    def read(info: TensorInfo, start: int, count: int) -> np.ndarray:
        return np.full(count, numbers[info.name], np.uint16)

    write_model(tmp_path / "m.h5", HEADER, infos, read)
    assert (tmp_path / "m.h5").stat().st_size <= needed_bytes(HEADER, infos)
    with open_model(tmp_path / "m.h5") as model:
        assert len(model.names()) == 33_000
        for name in ("blocks.0.att.receptance.weight.0", "blocks.999.att.receptance.weight.32"):
            buffer = np.empty(2, np.uint16)
            model.read_into(name, buffer)
            assert buffer.tolist() == [numbers[name]] * 2


def test_the_index_of_a_thousand_layers_fits() -> None:
    """With the tensors of version 7, all of them as large as can be, and each with the shape of a matrix."""
    config = Config(
        architecture="rwkv7", d_model=8, num_layers=1000, vocab_size=8, head_size=8, ranks=dict.fromkeys("wavg", 8)
    )
    specs = architecture_of(config).parameters(config)
    assert len(specs) >= 33_006
    entries = {
        path: Entry(DatasetSpec(path, "bf16", (1 << 20, 1 << 20), (1 << 20, 1 << 20)), i * (1 << 41), (1 << 32) - 1)
        for i, path in enumerate(parameter_path(spec.name) for spec in specs)
    }
    capacity = index_capacity("model", [entry.spec for entry in entries.values()])
    raw = pack_index("model", entries.values(), capacity)
    assert unpack_index(raw, Path("m"), 0, 1 << 80) == ("model", entries)


def test_more_datasets_than_the_format_takes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"tensors: expected at most 65536, got 65538; this is not an RWKV model"):
        needed_bytes(HEADER, tensors(1, MAX_DATASETS))


def test_tensors_of_less_than_a_page_leave_no_gaps_to_search(tmp_path: Path) -> None:
    infos = [TensorInfo(f"blocks.{i}.att.x_r", (1, 1, 600), "bf16", "", "bf16", 1200) for i in range(100)]
    write_model(tmp_path / "m.h5", HEADER, infos, lambda info, start, count: np.zeros(count, np.uint16))
    with open_model(tmp_path / "m.h5") as model:
        offsets = sorted(model._entries[info.name].offset for info in infos)
    gaps = [after - before - 1200 for before, after in pairwise(offsets)]
    assert min(gaps) >= 0
    assert sum(gap > 0 for gap in gaps) < 10
