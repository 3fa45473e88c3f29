"""docs/cluster.md: its examples run, each where its package is installed, and answer as one process does."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.helpers import lines, write_jsonl
from pages import ROOT
from rwkv_cy.batch import ScoreTask, run_batch
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.toolkit.convert import convert

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]
PAGE = ROOT / "docs" / "cluster.md"
EXAMPLE = re.compile(r"^### (\w+)[^\n]*\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {match[1].lower(): match[2] for match in EXAMPLE.finditer(PAGE.read_text("utf-8"))}
PACKAGES = {"ray": "ray.data", "dask": "dask.dataframe", "spark": "pyspark.sql"}


@pytest.fixture
def ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Ray start on this machine, beside clusters that run here already, and end it after the test."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.mark.usefixtures("ray_of_its_own")
@pytest.mark.parametrize("name", PACKAGES)
def test_an_example_gives_the_lines_of_files(
    kjv: LanguageModel,
    kjv_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    pytest.importorskip(PACKAGES[name], reason="pip install 'rwkv-cy[clusters]'")
    rows = [{"id": 1, "text": "In the beginning"}, {"id": 2, "text": "And God said"}]
    run_batch(kjv, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out", ScoreTask())
    convert(kjv_checkpoint, tmp_path / "model.h5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of other processes
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    program = EXAMPLES[name].replace('"model.h5"', repr(str(tmp_path / "model.h5")))  # they have folders of their own
    exec(compile(program, "cluster.md", "exec"), {"__name__": "__main__"})  # pickled by value, as of a script
    answers = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert [json.loads(answer) for answer in answers] == lines(tmp_path / "out")
