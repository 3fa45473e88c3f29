from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from contracts.cases import dense
from formats.sources import read_all
from rwkv_cy.dtypes import widen
from rwkv_cy.model.language_model import load
from rwkv_cy.storage import open_model
from rwkv_cy.tensors.plain import PlainSource
from rwkv_cy.toolkit.convert import convert


@pytest.mark.parametrize("dtype", [None, "f16", "q8", "q6", "q4"])
def test_numbers_in_canonical_orientation(kjv_checkpoint: Path, tmp_path: Path, dtype: str | None) -> None:
    convert(kjv_checkpoint, tmp_path / "m.h5", dtype=dtype)
    found = read_all(PlainSource(open_model(tmp_path / "m.h5")))
    parameters = load(tmp_path / "m.h5").parameters
    assert found.keys() == parameters.keys()
    for name, parameter in parameters.items():
        numbers, array = found[name]
        assert array.shape == parameter.shape, name
        np.testing.assert_array_equal(widen(array, numbers, "f64"), dense(parameter), err_msg=name)
    assert any(parameter.transposed for parameter in parameters.values()) == (dtype not in ("q8", "q6", "q4"))


def test_compressed_matrices_become_bf16(kjv_checkpoint: Path, tmp_path: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "m.h5", dtype="bf12")
    convert(kjv_checkpoint, tmp_path / "plain.h5", dtype="bf16")
    found = read_all(PlainSource(open_model(tmp_path / "m.h5")))
    for name, (dtype, array) in read_all(PlainSource(open_model(tmp_path / "plain.h5"))).items():
        assert found[name][0] == dtype == "bf16"
        assert found[name][1].tobytes() == array.tobytes(), name


def test_what_belongs_to_the_file_is_passed_on(kjv_checkpoint: Path, tmp_path: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "m.h5")
    with open_model(tmp_path / "m.h5") as inner, PlainSource(inner) as source:
        assert (source.path, source.format, source.files) == (inner.path, "hdf5", inner.files)
        assert source.check_bytes("emb.weight")
        assert source.view("emb.weight") is not None
        assert source.view("blocks.0.ffn.value.weight") is None
        source.check()
