from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from checkpoints import small_parameters, write_safetensors, write_small
from rwkv_cy.checkpoint.checkpoint import Checkpoint
from rwkv_cy.errors import ConfigError
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.diff import compare, diff
from rwkv_cy.toolkit.pages.diff_page import write_diff_page
from rwkv_cy.toolkit.pages.differences import LayerDifferences
from rwkv_cy.toolkit.places import places


def diff_page_of(one: Path, other: Path, folder: Path, **options: object) -> str:
    write_diff_page(one, other, folder / "report.html", **options)
    return (folder / "report.html").read_text("utf-8")


def rows(text: str) -> list[str]:
    return re.findall(r'<tr><th scope="row"><code>(.*?)</code>', text.replace("<wbr>", ""))


def test_the_report_is_that_of_diff(small: Path, tmp_path: Path) -> None:
    convert(small, tmp_path / "q.h5", dtype="q8")
    report = write_diff_page(small, tmp_path / "q.h5", tmp_path / "report.html", tolerance=0.1)
    assert report == diff(small, tmp_path / "q.h5", tolerance=0.1)


def test_the_most_different_is_first(tmp_path: Path) -> None:
    parameters = small_parameters()
    head = parameters["head.weight"].copy()
    head[7, 3] += 100
    key = parameters["blocks.1.att.key.weight"] * np.float32(1 + 1e-6)
    other = write_small(tmp_path / "b", head__weight=head, blocks__1__att__key__weight=key)
    text = diff_page_of(write_small(tmp_path / "a"), other, tmp_path)
    assert rows(text) == ["head.weight", "blocks.1.att.key.weight"]
    assert "RMS relative difference" in text
    assert "Histogram of differences" in text
    assert "<dd>different</dd>" in text


def test_equal_files(small: Path, tmp_path: Path) -> None:
    text = diff_page_of(small, small, tmp_path)
    assert "All numbers of all tensors are equal." in text
    assert "Both files have the same tensors in the same shapes" in text
    assert "<dd>the same</dd>" in text


def test_names_shapes_and_nan(tmp_path: Path) -> None:
    parameters = small_parameters()
    del parameters["ln_out.bias"]
    parameters |= {"surplus": np.ones(3, "f4"), "head.weight": np.ones((9, 32), "f4")}
    parameters["emb.weight"] = np.full((256, 32), np.nan, "f4")
    text = diff_page_of(write_small(tmp_path / "a"), write_safetensors(tmp_path / "b", parameters), tmp_path)
    assert "1 tensor of different shapes: <code>head.weight</code>" in text
    assert "1 tensor NaN or infinite in one of the files alone: <code>emb.weight</code>" in text
    assert "<strong>Only in A: </strong><code>ln_out.bias</code>" in text
    assert "<strong>Only in B: </strong><code>surplus</code>" in text
    assert rows(text) == ["emb.weight", "head.weight"]


def test_a_part_of_the_tensors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tensor has a name that matches"):
        write_diff_page(write_small(tmp_path / "a"), tmp_path / "a", tmp_path / "r.html", tensors="none.*")
    assert not (tmp_path / "r.html").exists()


def test_histograms_of_differences(tmp_path: Path) -> None:
    key = small_parameters()["blocks.1.att.key.weight"]
    other = key.copy()
    other[0, :4] += np.float32(0.5)
    other[1, 0] = np.nan
    one = write_small(tmp_path / "a", blocks__1__att__key__weight=np.round(key, 2))
    other = write_small(tmp_path / "b", blocks__1__att__key__weight=np.round(other, 2))
    with Checkpoint.open(one) as a, Checkpoint.open(other) as b:
        by_layer = LayerDifferences(places(a.shapes, ()))
        compare(a, b, exponents=by_layer.counters)
        sizes = [sum(a.source.info(n).size for n in a.shapes if n.startswith(f"blocks.{i}.")) for i in (0, 1)]
    assert by_layer.counts[0, 0] == sizes[0] == by_layer.counts[0].sum()
    assert by_layer.counts[1].sum() == sizes[1] - 1
    assert by_layer.counts[1, 1022] + by_layer.counts[1, 1021] == 4  # 2**-1, or a little below


def test_many_layers_share_rows() -> None:
    where = places({f"blocks.{i}.x": (1,) for i in range(1000)}, ())
    by_layer = LayerDifferences(where)
    for name in where:
        by_layer.counters(name)[5] += 1
    assert by_layer.counts.shape[0] == 64
    assert by_layer.counts.sum() == 1000
