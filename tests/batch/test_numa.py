"""Processors by NUMA node, and who gets which."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rwkv_cy.batch import numa
from rwkv_cy.errors import ConfigError


def cpus(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a machine of two nodes with two cores each, of two processors: n and n + 4."""
    for node, text in enumerate(["0-1,4-5\n", "2-3,6-7\n"]):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}" / "cpulist").write_text(text)
    (tmp_path / "node2").mkdir()
    (tmp_path / "node2" / "cpulist").write_text("\n")  # memory alone
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(numa, "core_of", lambda cpu: str(cpu % 4))
    monkeypatch.setattr(numa, "available_cpus", lambda: 4)
    return tmp_path


def test_nodes(two_nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numa.nodes(two_nodes) == [cpus(0, 1, 4, 5), cpus(2, 3, 6, 7)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 7}, raising=False)
    assert numa.nodes(two_nodes) == [cpus(2, 7)]


@pytest.mark.parametrize("text", ["0-1", "0-x", ""])
def test_nodes_that_do_not_have_every_processor_are_one(two_nodes: Path, text: str) -> None:
    (two_nodes / "node0" / "cpulist").write_text(text)
    assert numa.nodes(two_nodes) == [cpus(*range(8))]


def test_a_system_without_nodes_is_one(tmp_path: Path, two_nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert numa.nodes(tmp_path / "missing") == [cpus(*range(8))]
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert numa.nodes(two_nodes) == [cpus()]


@pytest.mark.parametrize(
    ("processes", "expected"),
    [
        (None, [cpus(0, 1, 4, 5), cpus(2, 3, 6, 7)]),
        (1, [cpus(*range(8))]),
        (2, [cpus(0, 1, 4, 5), cpus(2, 3, 6, 7)]),
        (3, [cpus(0, 4), cpus(1, 5), cpus(2, 3, 6, 7)]),
        (4, [cpus(0, 4), cpus(1, 5), cpus(2, 6), cpus(3, 7)]),
        (5, [cpus(0, 4), cpus(1, 5), cpus(0, 4), cpus(2, 6), cpus(3, 7)]),
    ],
)
def test_processes_get_whole_cores_of_a_node(
    two_nodes: Path, processes: int | None, expected: list[frozenset[int]]
) -> None:
    assert numa.divide(numa.nodes(two_nodes), processes) == expected


def test_threads_are_those_of_the_control_group(two_nodes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numa, "nodes", lambda: [cpus(0, 1, 4, 5), cpus(2, 3, 6, 7)])
    assert [share.threads for share in numa.shares()] == [2, 2]
    assert [share.threads for share in numa.shares(3)] == [1, 1, 2]
    assert [share.threads for share in numa.shares(threads=7)] == [7, 7]
    monkeypatch.setattr(numa, "available_cpus", lambda: 3)
    assert [share.threads for share in numa.shares()] == [1, 1]
    monkeypatch.setattr(numa, "nodes", lambda: [cpus()])
    assert numa.shares(2) == [numa.Share(cpus(), 1), numa.Share(cpus(), 1)]


def test_impossible_numbers() -> None:
    for number in (0, 1025):
        with pytest.raises(ConfigError, match=f"processes: expected from 1 to 1024, got {number}"):
            numa.shares(number)
