"""Batches on Ray, which the tests start on this machine: the same files as one process writes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from batch.helpers import KillsItself, contents, records, write_jsonl
from pages import ROOT
from rwkv_cy.batch import EmbedTask, GenerateTask, ScoreTask, run_batch
from rwkv_cy.batch.on_ray import Pool, RayActors, pool_of
from rwkv_cy.errors import ConfigError, FormatError, MissingDependencyError, StorageError
from rwkv_cy.model.language_model import LanguageModel

cluster_test = pytest.mark.ray
Task = GenerateTask | ScoreTask | EmbedTask
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def ray() -> Any:
    """Start Ray with two CPUs for actors and one for reading."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'rwkv-cy[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")  # actors unpickle a task of the tests
        ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()


@cluster_test
@pytest.mark.parametrize(
    "task",
    [GenerateTask(max_tokens=5, slots=3), ScoreTask(window=9), EmbedTask(normalize=True)],
    ids=lambda task: task.name,
)
def test_two_actors_write_what_one_process_writes(
    ray: Any, kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path, task: Task
) -> None:
    rows = [*records(task.text_field, 40), "{", {"id": "last", task.text_field: None}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    alone = run_batch(kjv, source, tmp_path / "alone", task, block_rows=3)
    workers = RayActors(kjv_checkpoint, actors=2)
    report = run_batch(kjv, source, tmp_path / "out", task, block_rows=3, workers=workers)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    assert (report.totals, report.run_records, report.run_tokens) == (alone.totals, 40, alone.run_tokens)
    assert ray.is_initialized()  # it was before
    again = run_batch(kjv, source, tmp_path / "out", task, block_rows=3, workers=workers)
    assert (again.run_records, again.totals) == (0, alone.totals)


@cluster_test
def test_the_errors_of_actors_are_those_of_the_package(
    ray: Any, kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [*records("text", 2), *["{"] * 4])
    with pytest.raises(ConfigError, match="expected the same model everywhere, .* in an actor on"):
        run_batch(kjv, source, tmp_path / "other", ScoreTask(), workers=RayActors(kjv_checkpoint, dtype="q8"))
    with pytest.raises(FormatError, match="expected at most 1 bad records, got 4"):
        run_batch(kjv, source, tmp_path / "bad", ScoreTask(), max_bad=1, workers=RayActors(kjv_checkpoint))


@cluster_test
def test_an_actor_that_dies_is_replaced_and_blocks_that_kill_every_actor_end_the_job(
    ray: Any, kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 20))
    run_batch(kjv, source, tmp_path / "alone", ScoreTask(), block_rows=3)
    workers = RayActors(kjv_checkpoint, actors=2)
    run_batch(kjv, source, tmp_path / "out", KillsItself(tmp_path / "mark"), block_rows=3, workers=workers)
    assert (tmp_path / "mark").exists()
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    deadly = KillsItself(tmp_path / "nowhere" / "mark")
    with pytest.raises(StorageError, match="blocks 1 to 1, got 4 actors that died of them"):
        run_batch(kjv, source, tmp_path / "dead", deadly, block_rows=3, workers=workers)


@cluster_test
def test_parquet_is_read_by_tasks(ray: Any, kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(records("text", 30)), tmp_path / "in.parquet", row_group_size=7)
    source = tmp_path / "in.parquet"
    run_batch(kjv, source, tmp_path / "alone", ScoreTask(), block_rows=4)
    run_batch(kjv, source, tmp_path / "out", ScoreTask(), block_rows=4, workers=RayActors(kjv_checkpoint))
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


@cluster_test
def test_a_cluster_that_is_not_there(kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.shutdown()
    source = write_jsonl(tmp_path / "in.jsonl", records("text", 2))
    workers = RayActors(kjv_checkpoint, address="auto")
    with pytest.raises(StorageError, match=r"Ray: expected a cluster at auto, got ConnectionError: .*ray start --head"):
        run_batch(kjv, source, tmp_path / "out", ScoreTask(), workers=workers)


def test_a_cpu_is_left_for_reading() -> None:
    node = {"CPU": 16.0, "memory": 1e9}
    assert pool_of([node] * 3) == Pool(3, 15.0, 1)
    assert pool_of([node, {"CPU": 4.0}, {"memory": 1.0}]) == Pool(2, 3.0, 1)
    assert pool_of([node], 4) == Pool(4, 3.0, 4)
    assert pool_of([{"CPU": 3.0}], 2) == Pool(2, 1.0, 2)
    assert pool_of([{"CPU": 2.0}], 4) == Pool(4, 0.25, 4)
    assert pool_of([{"CPU": 1.0}]) == Pool(1, 0.5, 1)
    with pytest.raises(StorageError, match="expected a cluster whose nodes have CPUs"):
        pool_of([{"memory": 1.0}])


def test_ray_is_optional(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="actors: expected from 1 to 65536, got 0"):
        RayActors(kjv_checkpoint, actors=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rwkv-cy\[ray\]'"):
        RayActors(kjv_checkpoint)
