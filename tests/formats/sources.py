"""Helpers that read an open checkpoint completely, in several ways, and compare the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_cy.dtypes import storage_type
from rwkv_cy.tensors.tensor import ParameterSource

Array = npt.NDArray[Any]


def read_all(source: ParameterSource) -> dict[str, tuple[str, Array]]:
    """Return (storage type, array) of every tensor, read in two pieces and held against its view; close the source."""
    result = {}
    with source:
        for name in source.names():
            info = source.info(name)
            array = np.empty(info.size, storage_type(info.dtype).array_dtype)
            half = info.size // 2
            source.read_into(name, array[half:], half)
            source.read_into(name, array[:half])
            view = source.view(name)
            if view is not None:
                assert view.shape == info.shape
                assert view.tobytes() == array.tobytes()
            result[name] = (info.dtype, array.reshape(info.shape))
    return result


def assert_same(found: Mapping[str, tuple[str, Array]], expected: Mapping[str, tuple[str, Array]]) -> None:
    """Hold two checkpoints together: names, order, types, shapes, and every bit."""
    assert list(found) == list(expected)
    for name, (dtype, array) in expected.items():
        assert found[name][0] == dtype
        assert found[name][1].shape == array.shape
        assert found[name][1].tobytes() == array.tobytes()
