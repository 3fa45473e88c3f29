from __future__ import annotations

from rwkv_cy.architectures import architecture_of
from rwkv_cy.toolkit.places import Place, places

from contracts.cases import CONFIGS  # isort: skip


def test_places_of_a_known_version() -> None:
    config = CONFIGS["rwkv7"]
    specs = architecture_of(config).parameters(config)
    where = places({spec.name: spec.shape for spec in specs}, specs)
    assert where["emb.weight"] == Place(None, "emb.weight", "embedding", "embedding")
    assert where["blocks.1.att.key.weight"] == Place(1, "att.key.weight", "matrix", "att matrices")
    assert where["blocks.1.ffn.value.weight"].group == "ffn matrices"
    assert where["blocks.0.att.w1"] == Place(0, "att.w1", "low_rank", "low-rank factors")
    assert where["blocks.0.att.r_k"].kind == "vector"
    assert list(where) == [spec.name for spec in specs]


def test_places_without_a_version() -> None:
    where = places({"a.b.weight": (3, 4), "c": (1, 1, 9), "blocks.7.deep.er.w": (2, 2), "blocks.07.x": (1,)}, ())
    assert where["a.b.weight"] == Place(None, "a.b.weight", "matrix", "a matrices")
    assert where["c"] == Place(None, "c", "vector", "vectors")
    assert where["blocks.7.deep.er.w"] == Place(7, "deep.er.w", "matrix", "deep.er matrices")
    assert where["blocks.07.x"].layer is None


def test_the_number_of_groups_is_bounded() -> None:
    where = places({f"m{i}.x.weight": (2, 2) for i in range(1000)}, ())
    groups = {place.group for place in where.values()}
    assert len(groups) == 17
    assert "other tensors" in groups
