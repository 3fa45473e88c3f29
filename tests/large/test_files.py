"""Files above 4 GiB with tensors of more than 2^31 elements, in every format: sparse, with a number at their ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.sparse import FORMATS, LARGE_SHAPES, write_sparse
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.dtypes import STORAGE_TYPES, widen
from rwkv_cy.tensors.plain import PlainSource

pytestmark = pytest.mark.large

SHAPE = LARGE_SHAPES["4-wide"]
FLOATS = [name for name, (_, dtype) in FORMATS.items() if dtype in STORAGE_TYPES]


@pytest.fixture(scope="module", params=FLOATS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    suffix, dtype = FORMATS[request.param]
    path = tmp_path_factory.mktemp("large") / f"wide{suffix}"
    write_sparse(path, SHAPE, dtype)
    with Checkpoint.open(path) as opened:
        yield opened
    for file in path.iterdir() if path.is_dir() else [path]:
        file.unlink()


def test_it_is_the_model(checkpoint: Checkpoint) -> None:
    assert checkpoint.config == SHAPE
    assert max(checkpoint.source.info(name).size for name in checkpoint.source.names()) > 1 << 31


def test_the_ends_of_its_matrices(checkpoint: Checkpoint) -> None:
    source = checkpoint.source
    plain = PlainSource(source)
    kinds = {spec.name: spec.kind for spec in architecture_of(SHAPE).parameters(SHAPE)}
    matrices = [name for name in source.names() if kinds[name] in ("matrix", "embedding", "head")]
    assert len(matrices) == 9
    for name in matrices:
        info = plain.info(name)
        buffer = np.empty(3, STORAGE_TYPES[info.dtype].array_dtype)
        plain.read_into(name, buffer, info.size - 3)
        assert widen(buffer, info.dtype, "f32").tolist() == [0, 0, 1], name
        view = source.view(name)
        if view is not None:
            assert widen(view[-1:, -2:].copy(), info.dtype, "f32").tolist() == [[0, 1]], name
