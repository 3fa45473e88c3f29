"""Verification of checksums during a conversion."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.tensors.checksums import ChecksumPass
from rwkv_cy.tensors.parallel import Stop


class Source:
    """A source of ten tensors that notes which of them were checked, and may be damaged in one."""

    def __init__(self, damaged: str | None = None) -> None:
        self.path = "model.pth"
        self.checked: list[str] = []
        self.first = threading.Event()
        self._damaged = damaged

    def names(self) -> tuple[str, ...]:
        return tuple(f"t{i}" for i in range(10))

    def checksum(self, name: str) -> int:
        return 7

    def check_bytes(self, name: str, advance: Any = None) -> bool:
        self.checked.append(name)
        self.first.set()
        if name == self._damaged:
            raise FormatError(f"{name}: damaged")
        return True


def refuse(*arguments: Any) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("threads", [True, False])
def test_every_tensor_is_compared(threads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not threads:
        monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    source: Any = Source()
    with ChecksumPass(source) as checksums:
        checksums.finish()
    assert source.checked == list(source.names())


@pytest.mark.parametrize("threads", [True, False])
def test_damage_is_an_error_at_the_end(threads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not threads:
        monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    source: Any = Source("t4")
    with ChecksumPass(source) as checksums, pytest.raises(FormatError, match="t4: damaged"):
        checksums.finish()
    assert len(source.checked) == 5


def test_it_stops_with_the_conversion_in_the_middle_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = Source()
    check, going_on = source.check_bytes, threading.Event()
    ended: list[str] = []

    def wait(name: str, advance: Any) -> bool:
        result: bool = check(name)
        going_on.wait()
        advance(1)  # as after every block: raises in the middle of the tensor
        ended.append(name)
        return result

    source.check_bytes = wait
    checksums = ChecksumPass(source)
    checksums.__enter__()
    source.first.wait()
    stop = checksums._stop
    monkeypatch.setattr(stop, "set", lambda: (Stop.set(stop), going_on.set()))
    checksums.__exit__()
    assert (source.checked, ended) == (["t0"], [])


def test_an_interrupt_while_the_thread_starts_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = Source()
    check, interrupted = source.check_bytes, threading.Event()

    def wait(name: str, advance: Any) -> bool:
        result: bool = check(name)
        interrupted.wait()
        return result

    def submit(pool: ThreadPoolExecutor, job: Any, start: Any = ThreadPoolExecutor.submit) -> None:
        start(pool, job)
        source.first.wait()
        raise KeyboardInterrupt

    source.check_bytes = wait
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    checksums = ChecksumPass(source)
    with pytest.raises(KeyboardInterrupt):
        checksums.__enter__()
    interrupted.set()
    checksums._pool.shutdown()
    assert source.checked == ["t0"]


def test_tensors_that_are_copied_are_compared_while_they_are_read() -> None:
    source: Any = Source("t4")
    with ChecksumPass(source, {"t3", "t4"}) as checksums:
        checksums.finish()
        assert set(source.checked) == set(source.names()) - {"t3", "t4"}
        checksums.compare("t3", 7)
        with pytest.raises(FormatError, match="t4: damaged"):
            checksums.compare("t4", 8)
        with pytest.raises(StorageError, match="t3: expected the same bytes in two reads"):
            checksums.compare("t3", 8)
