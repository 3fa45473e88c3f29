"""Files above 4 GiB with tensors of more than 2^31 elements, in every format: sparse, with a number at their ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.sparse import FORMATS, LARGE_SHAPES, write_sparse
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.config import Config
from rwkv_cy.dtypes import STORAGE_TYPES, widen
from rwkv_cy.tensors.plain import PlainSource

pytestmark = pytest.mark.large

SHAPE = LARGE_SHAPES["4-wide"]
#: llama.cpp does not run version 4.
SHAPE_OF_GGUF = replace(SHAPE, architecture="rwkv7", head_size=64, ranks=dict.fromkeys("wag", 32))
FLOATS = [name for name, (_, dtype) in FORMATS.items() if dtype in STORAGE_TYPES]


def shape_of(checkpoint: Checkpoint) -> Config:
    return SHAPE_OF_GGUF if checkpoint.source.format == "gguf" else SHAPE


@pytest.fixture(scope="module", params=FLOATS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    suffix, dtype = FORMATS[request.param]
    path = tmp_path_factory.mktemp("large") / f"wide{suffix}"
    write_sparse(path, SHAPE_OF_GGUF if suffix == ".gguf" else SHAPE, dtype)
    with Checkpoint.open(path) as opened:
        yield opened
    for file in path.iterdir() if path.is_dir() else [path]:
        file.unlink()


def test_it_is_the_model(checkpoint: Checkpoint) -> None:
    assert checkpoint.config == shape_of(checkpoint)
    assert max(checkpoint.source.info(name).size for name in checkpoint.source.names()) > 1 << 31


def test_the_ends_of_its_matrices(checkpoint: Checkpoint) -> None:
    source = checkpoint.source
    plain = PlainSource(source)
    config = shape_of(checkpoint)
    kinds = {spec.name: spec.kind for spec in architecture_of(config).parameters(config)}
    matrices = [name for name in source.names() if kinds[name] in ("matrix", "embedding", "head")]
    assert len(matrices) == (8 if config is SHAPE_OF_GGUF else 9)
    for name in matrices:
        info = plain.info(name)
        buffer = np.empty(3, STORAGE_TYPES[info.dtype].array_dtype)
        plain.read_into(name, buffer, info.size - 3)
        assert widen(buffer, info.dtype, "f32").tolist() == [0, 0, 1], name
        view = source.view(name)
        if view is not None:
            assert widen(view[-1:, -2:].copy(), info.dtype, "f32").tolist() == [[0, 1]], name
