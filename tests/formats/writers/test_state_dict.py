"""The pickle, read by Python's own unpickler with stand-ins for torch."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import pytest

from rwkv_cy.formats.writers.base import FLOAT_TYPES, StoredTensor
from rwkv_cy.formats.writers.state_dict import state_dict

SHAPES = {"emb.weight": (300, 70_000), "x": (1, 1, 5), "état": (7,), "one": (), "large": (1 << 17, 1 << 16)}


class Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return (lambda *arguments: arguments) if name == "_rebuild_tensor_v2" else f"{module}.{name}"

    def persistent_load(self, pid: Any) -> Any:
        return pid


@pytest.mark.parametrize(
    ("dtype", "storage"),
    [("f64", "DoubleStorage"), ("f32", "FloatStorage"), ("f16", "HalfStorage"), ("bf16", "BFloat16Storage")],
)
def test_what_torch_builds(dtype: str, storage: str) -> None:
    tensors = [StoredTensor(name, shape, "vector", FLOAT_TYPES[dtype]) for name, shape in SHAPES.items()]
    found = Unpickler(io.BytesIO(state_dict(tensors))).load()
    assert list(found) == list(SHAPES)
    assert [state_dict(tensors).count(name) for name in (b"_rebuild_tensor_v2", b"OrderedDict", b"cpu")] == [1, 1, 1]
    strides = {"emb.weight": (70_000, 1), "x": (5, 5, 1), "état": (1,), "one": (), "large": (1 << 16, 1)}
    for key, tensor in enumerate(tensors):
        stored = ("storage", f"torch.{storage}", str(key), "cpu", tensor.size)
        assert found[tensor.name] == (stored, 0, tensor.shape, strides[tensor.name], False, OrderedDict())


def test_tensors_of_several_types() -> None:
    names = {"a": "f32", "b": "bf16", "c": "f32", "d": "f64", "e": "f16", "f": "bf16"}
    tensors = [StoredTensor(name, (2,), "vector", FLOAT_TYPES[dtype]) for name, dtype in names.items()]
    found = Unpickler(io.BytesIO(state_dict(tensors))).load()
    storages = {"f64": "Double", "f32": "Float", "f16": "Half", "bf16": "BFloat16"}
    expected = [
        (("storage", f"torch.{storages[dtype]}Storage", str(key), "cpu", 2), 0, (2,), (1,), False, OrderedDict())
        for key, dtype in enumerate(names.values())
    ]
    assert list(found.values()) == expected
    assert len({id(hooks) for *_, hooks in found.values()}) == len(names)  # each tensor has a dictionary of its own
