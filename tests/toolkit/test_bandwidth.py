"""The sample of the read bandwidth: measured once, in bounds, and without it where memory is short."""

from __future__ import annotations

from threading import Thread

import pytest

from rwkv_cy.errors import ConfigError
from rwkv_cy.kernels.dispatch import read_bandwidth
from rwkv_cy.toolkit import bandwidth as module
from rwkv_cy.toolkit.bandwidth import BandwidthSample


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_read_at_some_speed(threads: int) -> None:
    assert 0 < read_bandwidth(32 << 20, threads, 0.01) < 1e13


@pytest.mark.parametrize("nbytes", [0, 1, 15 << 20])
def test_too_little_memory_says_nothing(nbytes: int) -> None:
    assert read_bandwidth(nbytes, 1, 0.01) == 0


def test_a_sample_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def measure(nbytes: int, threads: int, seconds: float) -> float:
        calls.append((nbytes, threads))
        return 5e9

    monkeypatch.setattr("rwkv_cy.kernels.dispatch.read_bandwidth", measure)
    monkeypatch.setattr(module, "last_level_cache", lambda: 50 << 20)
    monkeypatch.setattr(module, "get_num_threads", lambda: 3)
    sample = BandwidthSample()
    sample.start()
    assert sample.result() == sample.result() == 5e9
    assert calls == [(100 << 20, 3)]


def test_no_sample_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.kernels.dispatch.read_bandwidth", lambda *arguments: pytest.fail("measured"))
    monkeypatch.setattr(module, "available_memory", lambda: 100 << 20)
    assert BandwidthSample().result() is None


def test_a_wrong_setting_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise ConfigError("RWKV_CY_NUM_THREADS: wrong")

    monkeypatch.setattr(module, "get_num_threads", refuse)
    assert BandwidthSample().result() is None


def test_no_sample_where_no_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    sample = BandwidthSample()
    sample.start()
    assert sample.result() is None
