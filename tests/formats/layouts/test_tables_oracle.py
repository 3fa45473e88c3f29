"""Every layout in a file that the safetensors library writes: read back to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.layouts.test_tables import ALL, MODELS, OWN, applied, opened, shapes_of, widened, written_in
from formats.sources import read_all
from rwkv_cy.dtypes import to_storage
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.layouts.layout import Layout

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs torch==2.13.0")


@pytest.mark.parametrize("dtype", ["f64", "f32", "f16", "bf16"])
@pytest.mark.parametrize("layout", [layout for layout in ALL if layout not in OWN], ids=lambda layout: layout.name)
def test_written_by_safetensors(tmp_path: Path, torch: Any, layout: Layout, dtype: str) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = next(name for name, parameters in MODELS.items() if layout.holds(shapes_of(parameters)))
    parameters = {name: to_storage(array, "f32", dtype) for name, array in written_in(layout, model).items()}
    with applied(opened(tmp_path / "model", parameters), layout) as source:
        tensors = {name: torch.from_numpy(array.copy()) for name, (_, array) in read_all(source).items()}
    if dtype == "bf16":
        tensors = {name: tensor.view(torch.bfloat16) for name, tensor in tensors.items()}
    safetensors.save_file(tensors, tmp_path / "foreign", metadata={"format": "pt"})
    found = read_all(open_checkpoint(tmp_path / "foreign"))
    expected = widened(parameters) if layout.name == "web-rwkv, RWKV-5.1" else parameters
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name][0] == dtype
        assert found[name][1].shape == array.shape, name
        np.testing.assert_array_equal(found[name][1], array, err_msg=name)
