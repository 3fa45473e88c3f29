"""The callable of engines of data frames, and Parquet."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from batch.helpers import lines, records, write_jsonl
from rwkv_cy.batch import BatchWorker, EmbedTask, GenerateTask, ScoreTask, run_batch
from rwkv_cy.errors import ConfigError, FormatError, MissingDependencyError
from rwkv_cy.model.language_model import LanguageModel


@pytest.mark.parametrize("task", [GenerateTask(max_tokens=4), ScoreTask(), EmbedTask()], ids=lambda task: task.name)
def test_columns_give_the_lines_of_files(
    kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, task: GenerateTask | ScoreTask | EmbedTask
) -> None:
    rows = records(task.text_field, 5)
    run_batch(kjv, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out", task)
    worker = BatchWorker(kjv_checkpoint, pickle.loads(pickle.dumps(task)))
    columns = {name: np.array([row[name] for row in rows]) for name in ("id", task.text_field)}
    result = worker(columns)
    assert result["id"] == [row["id"] for row in rows]
    assert [json.loads(answer) for answer in result["answer"]] == lines(tmp_path / "out")
    assert result["error"] == [None] * 5


def test_bad_rows_of_columns(kjv_checkpoint: Path) -> None:
    worker = BatchWorker(kjv_checkpoint, ScoreTask())
    result = worker({"id": [1, 2], "text": ["x", None]})
    assert result["answer"][1] is None
    assert result["error"] == [None, "text: expected a text or token ids, got none"]
    with pytest.raises(ConfigError, match="columns: expected one length, got 1, 2"):
        worker({"id": [1], "text": ["x", "y"]})


def test_parquet(kjv: LanguageModel, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = records("text")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=4)
    run_batch(kjv, tmp_path / "in.parquet", tmp_path / "parquet", ScoreTask(), block_rows=6)
    run_batch(kjv, write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "jsonl", ScoreTask(), block_rows=6)
    assert lines(tmp_path / "parquet") == lines(tmp_path / "jsonl")
    (tmp_path / "parquet" / "answers-000001.jsonl").unlink()
    assert run_batch(kjv, tmp_path / "in.parquet", tmp_path / "parquet", ScoreTask(), block_rows=6).run_records == 6
    assert lines(tmp_path / "parquet") == lines(tmp_path / "jsonl")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(FormatError, match=r"bad\.parquet: expected a Parquet file, got something else"):
        run_batch(kjv, tmp_path / "bad.parquet", tmp_path / "bad", ScoreTask())


def test_parquet_without_pyarrow(kjv: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rwkv-cy\[batch\]', or convert it to JSONL"):
        run_batch(kjv, tmp_path / "in.parquet", tmp_path / "out", ScoreTask())
