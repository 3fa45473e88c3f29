from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from checkpoints import random_checkpoint, write_safetensors, write_small
from contracts.cases import CONFIGS
from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.pages import writing
from rwkv_cy.toolkit.pages.diff_page import write_diff_page
from rwkv_cy.toolkit.pages.model_page import write_model_page
from rwkv_cy.toolkit.pages.skeleton import MARK

HEADINGS = re.compile(r"<h2>(.*?)</h2>")
CAPTIONS = re.compile(r"<figcaption><h3>(.*?)</h3>")


def model_page_of(path: Path, folder: Path) -> str:
    write_model_page(path, folder / "report.html")
    return (folder / "report.html").read_text("utf-8")


def test_the_report_is_that_of_inspect(small: Path, tmp_path: Path) -> None:
    report = write_model_page(small, tmp_path / "report.html")
    expected = inspect(small, stats=True)
    assert report.tensors == expected.tensors
    assert (report.config, report.num_parameters) == (expected.config, expected.num_parameters)


@pytest.mark.parametrize("case", [name for name in CONFIGS if "-" not in name])
def test_every_version(tmp_path: Path, case: str) -> None:
    config = CONFIGS[case]
    text = model_page_of(write_safetensors(tmp_path / "m", random_checkpoint(config)), tmp_path)
    headings = HEADINGS.findall(text)
    assert headings[:3] == ["Checks", "Sizes", "Decay"]
    assert {"Token shift", "Weights", "Size of weights by layer", "Tensors"} <= set(headings)
    assert ("Low ranks" in headings) == bool(config.ranks)
    captions = CAPTIONS.findall(text)
    assert "Half-life by layer" in captions
    assert {"att matrices", "ffn matrices", "embedding", "head"} <= set(captions)
    assert text.startswith(MARK)
    assert len(text) < 2_000_000


def test_the_bars_of_the_memory_are_beside_it(small: Path, tmp_path: Path) -> None:
    text = model_page_of(small, tmp_path)
    assert re.search(r'>in memory</th><th[^>]*class="bar"[^>]*></th><th[^>]*>tokens a second</th>', text)


def test_problems_come_first(tmp_path: Path) -> None:
    weight = np.full((32, 32), 1e-40, "f4")
    weight[0, :3] = np.nan, np.inf, 1.0
    path = write_small(
        tmp_path / "m", blocks__0__att__key__weight=weight, blocks__1__att__key__weight=np.zeros((32, 32), "f4")
    )
    text = model_page_of(path, tmp_path)
    assert HEADINGS.findall(text)[0] == "Problems"
    assert "2 numbers in 1 tensor NaN or infinite: <code>blocks.0.att.key.weight</code>" in text
    assert "1,021 numbers in 1 tensor subnormal, below 2⁻¹²⁶, which counts as zero: <code>blocks.0" in text
    assert "1 tensor of zeros alone: <code>blocks.1.att.key.weight</code>" in text


def test_an_incomplete_file(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m", {"blocks.0.x.weight": np.ones((3, 4), "f4")})
    text = model_page_of(path, tmp_path)
    assert "expected the parameters of an RWKV model" in text
    assert "unknown" in text


@pytest.mark.parametrize("name", ["<script>alert(1)<|script>", '"><img src=x onerror=y>', "</style><p onclick='z'>"])
def test_names_are_escaped(tmp_path: Path, name: str) -> None:
    path = write_safetensors(tmp_path / "\u202egpj.<b>\x1b[2J", {f"blocks.0.{name}": np.ones((3, 4), "f4")})
    write_diff_page(path, write_small(tmp_path / "s"), tmp_path / "d.html")
    for text in (model_page_of(path, tmp_path), (tmp_path / "d.html").read_text("utf-8")):
        assert html.escape(name) in text
        assert not re.search(r"<script|<img|onclick='|<b>|\u202e|\x1b", text)
        assert text.count("</style>") == 1
        assert r"\u202egpj.&lt;b&gt;\x1b[2J" in text


def test_metadata_is_escaped_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    entries = {f"<k{i}>": "<b>" + "y" * 5000 for i in range(100)}
    safetensors.numpy.save_file({"x": np.ones(2, "f4")}, path, entries)
    text = model_page_of(path, tmp_path)
    assert re.search(r"&lt;k\d+&gt;", text)
    assert "<b>" not in text
    assert "The first 40 entries of 100." in text
    assert len(text) < 100_000


def test_a_page_of_many_tensors_is_small(tmp_path: Path) -> None:
    tensors = {f"blocks.{i}.m{j}.weight": np.ones((2, 2), "f4") for i in range(1000) for j in range(5)}
    tensors |= {f"blocks.0.v{j}": np.ones(2, "f4") for j in range(50)}
    odd = {f"odd{i}.{'x' * 400}": np.arange(3, dtype="f4") for i in range(1000)}
    path = write_safetensors(tmp_path / "m", tensors | odd)
    text = model_page_of(path, tmp_path)
    assert len(text) < 1_500_000
    assert "The first 200 names of 1,055" in text
    assert "10 names not drawn: <code>" in text
    assert "The first 400 tensors of 6,050" in text
    other = write_safetensors(tmp_path / "n", {name: array + 1 for name, array in tensors.items()})
    write_diff_page(path, other, tmp_path / "d.html")
    page = (tmp_path / "d.html").read_text("utf-8")
    assert len(page) < 500_000
    assert "The first 200 of 5,050" in page
    assert "and 960 more" in page


def test_a_quantized_model(tmp_path: Path, kjv_checkpoint: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "q.h5", dtype="q4")
    text = model_page_of(tmp_path / "q.h5", tmp_path)
    assert "4.5" in text
    assert "source sha256" in text


# --- the file of the page ---


def test_an_existing_page_is_replaced_only_on_request(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_model_page(small, target)
    before = target.read_bytes()
    with pytest.raises(StorageError, match=r"report.html already exists"):
        write_model_page(small, target)
    write_diff_page(small, small, target, overwrite=True)
    assert target.read_bytes() != before


@pytest.mark.parametrize("content", [b"<!doctype html>\n<p>mine</p>", b"x", MARK.encode()[:-1]])
def test_another_file_is_never_replaced(small: Path, tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "report.html"
    target.write_bytes(content)
    with pytest.raises(StorageError, match="expected a report of rwkv-cy to replace, got another file"):
        write_model_page(small, target, overwrite=True)
    assert target.read_bytes() == content


def test_an_empty_file_is_replaced(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.touch()
    write_model_page(small, target, overwrite=True)
    assert target.read_text("utf-8").startswith(MARK)


def test_the_source_is_never_replaced(small: Path, tmp_path: Path) -> None:
    before = small.read_bytes()
    for write in (
        lambda: write_model_page(small, small, overwrite=True),
        lambda: write_diff_page(small, write_small(tmp_path / "b"), tmp_path / "b", overwrite=True),
    ):
        with pytest.raises(StorageError, match="is the source itself; name another file"):
            write()
    assert small.read_bytes() == before


def test_other_targets(small: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such folder; create it first"):
        write_model_page(small, tmp_path / "none" / "report.html")
    with pytest.raises(StorageError, match="is a folder; name a file in it"):
        write_model_page(small, tmp_path)


def test_the_target_is_checked_before_the_work(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.toolkit.pages.model_page.survey", lambda *_: pytest.fail("numbers were read"))
    (tmp_path / "report.html").write_text("x")
    with pytest.raises(StorageError, match="already exists"):
        write_model_page(small, tmp_path / "report.html")


@pytest.mark.parametrize("error", [KeyboardInterrupt, FormatError("damaged"), MemoryError])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: BaseException) -> None:
    def fail() -> str:
        raise error

    target = tmp_path / "report.html"
    target.write_text(MARK)
    with pytest.raises(type(error) if isinstance(error, BaseException) else error):
        writing.write_page(target, [], fail, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_text() == MARK
