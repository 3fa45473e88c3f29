"""The cache: what it finds, what it evicts, and what its folder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.helpers import small_model
from rwkv_cy.engine import StateCache
from rwkv_cy.engine.state_cache.disk import model_identity
from rwkv_cy.errors import ConfigError, StorageError
from rwkv_cy.model.language_model import LanguageModel, load

KEY = ("", "")
LIMIT = 1 << 20


def text(length: int, first: int = 0) -> np.ndarray:
    """Return tokens; texts with the same first token are prefixes of each other."""
    return ((np.arange(length) * 7 + np.arange(length) // 5) % 97 + first * 100).astype(np.int32)


def numbers(value: float, size: int = 1000) -> np.ndarray:
    return np.full((1, size), value, np.float32)


def filled(model: LanguageModel, value: float) -> np.ndarray:
    return np.full_like(model.encoder.numbers(None), value)


def store(cache: StateCache, length: int, first: int = 0, kind: str = "prompt", size: int = 1000) -> bool:
    return cache.store(KEY, text(length, first), numbers(length, size), None, kind)


def count_of(cache: StateCache, length: int, first: int = 0) -> int:
    snapshot = cache.find(KEY, text(length, first)).snapshot
    return 0 if snapshot is None else snapshot.count


def test_the_longest_prefix() -> None:
    cache = StateCache(LIMIT)
    for length in (10, 40, 20):
        assert store(cache, length)
    assert [count_of(cache, length) for length in (5, 10, 11, 20, 30, 40, 41, 90)] == [0, 0, 10, 10, 20, 20, 40, 40]
    assert count_of(cache, 90, first=1) == 0
    found = cache.find(KEY, np.concatenate([text(33), text(5, 2)]))
    assert found.common == 33
    assert found.snapshot is not None
    assert found.snapshot.data[0, 0] == 20


def test_logits_let_a_prompt_begin_at_its_end() -> None:
    cache = StateCache(LIMIT)
    store(cache, 10)
    assert count_of(cache, 10) == 0
    assert cache.store(KEY, text(10), numbers(10), np.ones(5, np.float32), "prompt")
    assert count_of(cache, 10) == 10
    assert cache.stats.bytes == 4000 + 20 + 40


def test_states_are_copies() -> None:
    cache, state = StateCache(LIMIT), numbers(1)
    cache.store(KEY, text(10), state, None, "prompt")
    state[...] = 2
    found = cache.find(KEY, text(11)).snapshot
    assert found is not None
    assert found.data[0, 0] == 1


def test_partitions_share_nothing() -> None:
    cache = StateCache(LIMIT)
    store(cache, 10)
    for other in (("b", ""), ("", "digest")):
        found = cache.find(other, text(20))
        assert (found.snapshot, found.common) == (None, 0)


def test_partitions_that_hold_nothing_take_no_memory() -> None:
    cache = StateCache(20_000)
    tokens = np.arange(10, dtype=np.int32)
    for number in range(100):
        key = (f"partition {number}", "")
        assert cache.find(key, tokens).snapshot is None
        cache.drop(key, tokens)
    assert len(cache._trees) == 0
    for number in range(100):
        cache.store((f"partition {number}", ""), tokens, numbers(1.0), None, "prompt")
    assert 1 <= len(cache._trees) <= 5


def test_figures() -> None:
    cache = StateCache(LIMIT)
    cache.use(None, 30)
    store(cache, 20, kind="branch")
    cache.use(cache.find(KEY, text(50)).snapshot, 50)
    stats = cache.stats
    assert (stats.lookups, stats.hits, stats.prompt_tokens, stats.hit_tokens) == (2, 1, 80, 20)
    assert (stats.snapshots, stats.bytes, stats.stored) == (1, 4080, {"branch": 1})
    stats.stored["branch"] = 9
    assert cache.stats.stored["branch"] == 1


def test_bytes_are_limited() -> None:
    cache = StateCache(100_000)
    for first in range(300):
        store(cache, 10, first)
        assert cache.stats.bytes <= 100_000
    stats = cache.stats
    assert stats.snapshots == 24
    assert stats.evicted == {"prompt": 276}


def test_many_snapshots_are_evicted_several_at_a_time() -> None:
    cache = StateCache(500_000)
    for first in range(200):
        store(cache, 10, first)
    assert 110 < cache.stats.snapshots <= 123


def test_what_is_larger_than_the_limit_is_not_stored() -> None:
    cache = StateCache(3000)
    assert not store(cache, 10)
    assert (cache.stats.snapshots, cache.stats.bytes) == (0, 0)


@pytest.mark.parametrize("better", ["longer", "used", "recent", "kind"])
def test_what_is_worth_least_is_evicted(better: str) -> None:
    cache = StateCache(9000)
    store(cache, 20, 1)
    store(cache, 40 if better == "longer" else 20, 2, "branch" if better == "kind" else "prompt")
    if better == "used":
        cache.use(cache.find(KEY, text(30, 2)).snapshot, 30)
        cache.use(cache.find(KEY, text(30, 1)).snapshot, 30)
        cache.use(cache.find(KEY, text(30, 2)).snapshot, 30)
    if better == "recent":
        cache.use(None, 5)
        store(cache, 20, 2)
    store(cache, 20, 3, "breakpoint")
    assert count_of(cache, 90, 1) == 0
    assert count_of(cache, 90, 2) > 0
    assert count_of(cache, 90, 3) > 0


def test_a_state_right_after_another_is_worth_little() -> None:
    cache = StateCache(15_000)
    store(cache, 500, 1)
    store(cache, 505, 1)
    store(cache, 50, 2)
    store(cache, 50, 3)
    assert [count_of(cache, 900, first) for first in (1, 2, 3)] == [500, 50, 50]


def test_unused_states_can_be_dropped() -> None:
    cache = StateCache(LIMIT)
    store(cache, 10)
    store(cache, 20)
    cache.use(cache.find(KEY, text(15)).snapshot, 15)
    for length in (10, 20, 30):
        cache.drop(KEY, text(length))
    assert count_of(cache, 90) == 10


def test_limits() -> None:
    for name in ("max_bytes", "max_disk_bytes"):
        with pytest.raises(ConfigError, match=f"{name}: expected a positive integer, got 0"):
            StateCache(**{name: 0})


@pytest.mark.parametrize("answers", [None, 1, "no"])
def test_answers_are_kept_or_not(answers: Any) -> None:
    with pytest.raises(ConfigError, match=f"^answers: expected True or False, got {answers!r}$"):
        StateCache(answers=answers)
    assert [StateCache(answers=known).answers for known in (True, False)] == [True, False]


def test_one_model(kjv: LanguageModel) -> None:
    cache = StateCache(LIMIT)
    cache.attach(kjv)
    cache.attach(kjv)
    with pytest.raises(ConfigError, match="StateCache: expected the model that it is used for, got another one"):
        cache.attach(small_model("rwkv4"))


def test_the_identity_of_a_model(kjv: LanguageModel, kjv_checkpoint: Path) -> None:
    assert model_identity(load(kjv_checkpoint)) == model_identity(kjv)
    others = [
        load(kjv_checkpoint, dtype="q8"),
        load(kjv_checkpoint, activations="bf16"),
        load(kjv_checkpoint, rescale_layer=2),
        small_model("rwkv4"),
    ]
    assert len({model_identity(model) for model in (kjv, *others)}) == 5


def open_cache(model: LanguageModel, folder: Path, **arguments: int) -> StateCache:
    cache = StateCache(folder=folder, **arguments)
    cache.attach(model)
    return cache


def test_a_folder_survives_a_restart(kjv: LanguageModel, tmp_path: Path) -> None:
    cache = open_cache(kjv, tmp_path)
    for length in range(100, 1100, 50):
        cache.store(KEY, text(length), filled(kjv, length), None, "prompt")
    cache.store(("b", ""), text(2000), filled(kjv, 2000), None, "prompt")
    cache.close()
    cache = open_cache(kjv, tmp_path)
    assert (cache.stats.disk_files, cache.stats.snapshots) == (21, 0)
    for length, count in ((90, 0), (100, 0), (101, 100), (990, 950), (1050, 1000), (3000, 1050)):
        snapshot = cache.find(KEY, text(length)).snapshot
        assert (0 if snapshot is None else snapshot.count) == count
        if snapshot is not None:
            assert (snapshot.data == count).all()
    assert cache.stats.disk_hits == 4
    cache.close()


def test_another_model_does_not_find_it(kjv: LanguageModel, kjv_checkpoint: Path, tmp_path: Path) -> None:
    cache = open_cache(kjv, tmp_path)
    cache.store(KEY, text(100), filled(kjv, 1), None, "prompt")
    cache.close()
    other = open_cache(load(kjv_checkpoint, dtype="q8"), tmp_path)
    assert other.find(KEY, text(200)).snapshot is None
    other.close()


def test_what_is_evicted_goes_to_the_folder(kjv: LanguageModel, tmp_path: Path) -> None:
    size = kjv.encoder.numbers(None).nbytes
    cache = open_cache(kjv, tmp_path, max_bytes=2 * size + 3000)
    for first in range(4):
        cache.store(KEY, text(100, first), filled(kjv, first), None, "prompt")
        assert cache._disk is not None
        cache._disk.flush()
    assert (cache.stats.snapshots, cache.stats.disk_files) == (2, 2)
    for first in range(4):
        snapshot = cache.find(KEY, text(200, first)).snapshot
        assert snapshot is not None
        assert (snapshot.data == first).all()
    cache.close()


def test_the_folder_is_limited(kjv: LanguageModel, tmp_path: Path) -> None:
    cache = open_cache(kjv, tmp_path)
    cache.store(KEY, text(100), filled(kjv, 1), None, "prompt")
    cache.close()
    (first,) = tmp_path.glob("*/*.h5")
    cache = open_cache(kjv, tmp_path, max_disk_bytes=3 * first.stat().st_size)
    for length in (200, 300, 400, 500):
        cache.store(KEY, text(length), filled(kjv, length), None, "prompt")
    assert cache.find(KEY, text(150)).snapshot is not None
    cache.close()
    assert len(list(tmp_path.glob("*/*.h5"))) == 3
    assert not first.exists()


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "of another model"])
def test_damaged_files_are_removed(kjv: LanguageModel, tmp_path: Path, damage: str) -> None:
    cache = open_cache(kjv, tmp_path)
    for length in (100, 200):
        cache.store(KEY, text(length), filled(kjv, length), None, "prompt")
    cache.close()
    path = next(tmp_path.glob("*/*-200.h5"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "of another model":
        path.unlink()
        small_model("rwkv7").initial_state().save(path)
    else:
        path.write_bytes({"truncated": data[:-100], "changed": data, "empty": b""}[damage])
    (path.parent / "notes.txt").write_text("not a state")
    cache = open_cache(kjv, tmp_path)
    snapshot = cache.find(KEY, text(300)).snapshot
    assert snapshot is not None
    assert snapshot.count == 100
    assert cache.stats.disk_errors == 1
    assert not path.exists()
    cache.close()


def test_a_folder_that_cannot_be_written(kjv: LanguageModel, tmp_path: Path) -> None:
    cache = open_cache(kjv, tmp_path)
    cache.store(KEY, text(100), filled(kjv, 1), None, "prompt")
    folder = tmp_path / model_identity(kjv)
    folder.rmdir()
    folder.write_text("in the way")
    cache.close()
    assert cache.stats.disk_errors == 1
    with pytest.raises(
        StorageError, match=r"cannot be a folder for states: (File exists|Not a directory); name another one$"
    ):
        open_cache(kjv, tmp_path)
