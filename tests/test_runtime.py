"""Threads, processors and memory, as reported by the system and set by the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rwkv_cy import runtime
from rwkv_cy.errors import ConfigError


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    runtime.set_num_threads(None)
    yield
    runtime.set_num_threads(None)


def test_setter_argument_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime.get_num_threads() == runtime.available_cpus() >= 1
    runtime.set_num_threads(3)
    assert runtime.get_num_threads() == runtime.resolve_num_threads(None) == 3
    assert runtime.resolve_num_threads(5) == 5
    runtime.set_num_threads(None)
    monkeypatch.setenv("RWKV_CY_NUM_THREADS", "7")
    assert runtime.get_num_threads() == 7


@pytest.mark.parametrize("value", [0, -1, 1025, True, 2.5, "many"])
def test_impossible_numbers_of_threads(value: object) -> None:
    with pytest.raises(ConfigError, match=r"num_threads: expected a number of threads from 1 to 1024, got"):
        runtime.set_num_threads(value)  # type: ignore[arg-type]


def test_impossible_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWKV_CY_NUM_THREADS", "all")
    with pytest.raises(
        ConfigError, match="RWKV_CY_NUM_THREADS: expected a number of threads from 1 to 1024, got 'all'"
    ):
        runtime.get_num_threads()


def test_instruction_set_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWKV_CY_ISA", " AVX2 ")
    assert runtime.instruction_set_override() == "avx2"
    monkeypatch.setenv("RWKV_CY_ISA", "")
    assert runtime.instruction_set_override() is None


def test_siblings_are_one_core(tmp_path: Path) -> None:
    for cpu, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{siblings}\n")
    assert {runtime.core_of(cpu, tmp_path) for cpu in range(3)} == {"0,2", "1,3"}
    assert runtime.core_of(9, tmp_path) == "9"


def test_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/../b\n")
    root = tmp_path / "fs"
    (root / "a" / "b").mkdir(parents=True)
    assert runtime._cgroup_cpus(root, own) is None
    (root / "cpu.max").write_text("max 100000\n")
    (root / "a" / "cpu.max").write_text("250000 100000\n")
    assert runtime._cgroup_cpus(root, own) == 2.5
    (root / "a" / "b" / "cpu.max").write_text("150000 100000\n")
    assert runtime._cgroup_cpus(root, own) == 1.5
    (root / "a" / "b" / "cpu.max").write_text("nonsense\n")
    assert runtime._cgroup_cpus(root, own) == 2.5
    own.write_text("4:cpu,cpuacct:/job\n3:memory:/job\n")
    (root / "cpu" / "job").mkdir(parents=True)
    (root / "cpu" / "job" / "cpu.cfs_quota_us").write_text("50000\n")
    (root / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000\n")
    assert runtime._cgroup_cpus(root, own) == 0.5
    assert runtime._cgroup_cpus(tmp_path / "nowhere", tmp_path / "nothing") is None


def test_a_container_with_less_cpu_than_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(runtime, "core_of", str)
    for quota, expected in ((None, 64), (0.5, 1), (3.0, 3), (100.0, 64)):
        monkeypatch.setattr(runtime, "_cgroup_cpus", lambda quota=quota: quota)
        assert runtime.available_cpus() == expected


def test_available_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert runtime.available_memory(tmp_path, meminfo, own) == 50 * 1024
    for folder, limit, used, idle, expected in (
        ("", "40000", 10_000, 0, 30_000),
        ("a/b", "20000", 5_000, 1_000, 16_000),
        ("a", "100", 200, 0, 0),
        ("a", "max", 200, 0, 16_000),
        ("a/b", "nonsense", 5_000, 0, 30_000),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
        (tmp_path / folder / "memory.current").write_text(f"{used}\n")
        (tmp_path / folder / "memory.stat").write_text(f"anon 7\ninactive_file {idle}\n")
        assert runtime.available_memory(tmp_path, meminfo, own) == expected
    assert runtime.available_memory(tmp_path / "no", tmp_path / "no", own) is None


def test_memory_of_a_control_group_of_version_1(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("9:cpu,cpuacct:/other\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n")
    folder = tmp_path / "memory" / "docker" / "abc"
    folder.mkdir(parents=True)
    for place, limit in ((tmp_path / "memory", 9223372036854771712), (folder, 50_000)):
        (place / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (place / "memory.usage_in_bytes").write_text("20000\n")
        (place / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 5000\n")
    assert runtime.available_memory(tmp_path, tmp_path / "no", own) == 50_000 - 15_000
    # In a container the group is the root of what it sees.
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("30000\n")
    assert runtime.available_memory(tmp_path, tmp_path / "no", tmp_path / "nothing") == 30_000 - 15_000
    (tmp_path / "memory" / "memory.stat").write_text("nonsense\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").unlink()
    assert runtime.available_memory(tmp_path, tmp_path / "no", tmp_path / "nothing") is None


def test_process_memory(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmRSS:\t 12 kB\nRssAnon:\t       5 kB\nRssFile:\t 7 kB\nRssShmem:\t0 kB\n")
    assert runtime.process_memory(status) == (5 * 1024, 7 * 1024)
    status.write_text("Name:\tpython\n")
    assert runtime.process_memory(status) is None
    assert runtime.process_memory(tmp_path / "no") is None


@pytest.mark.parametrize(("environment", "threads"), [({}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")])
def test_blas_starts_no_threads_unless_asked(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], threads: str
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    runtime.keep_blas_quiet()
    assert environment == {"OPENBLAS_NUM_THREADS": threads}


def test_settings_of_other_packages_and_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"SET": "1"}
    monkeypatch.setattr(os, "environ", environment)
    runtime.default_setting("SET", "2")
    runtime.default_setting("UNSET", "3")
    assert environment == {"SET": "1", "UNSET": "3"}
    assert runtime.child_environment() == environment | {"OPENBLAS_NUM_THREADS": "1"}
    environment["OPENBLAS_NUM_THREADS"] = "4"
    assert runtime.child_environment() == environment


def test_the_largest_cache(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1M\n", "512K", "nonsense", "")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size)
    assert runtime.last_level_cache(tmp_path) == 1 << 20
    assert runtime.last_level_cache(tmp_path / "no") == 0


@pytest.mark.parametrize(
    ("value", "columns"), [(None, 0), ("", 0), ("80", 80), ("0", 0), ("-5", 0), ("x", 0), ("9" * 5000, 0)]
)
def test_columns(monkeypatch: pytest.MonkeyPatch, value: str | None, columns: int) -> None:
    if value is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", value)
    assert runtime.columns_setting() == columns
