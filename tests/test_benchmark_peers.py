"""Other programs in the benchmarks: their files hold the same model, and their interface is used correctly."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

import rwkv_cy
from benchmarks import rwkvcpp
from benchmarks.checkpoints import write_checkpoint
from benchmarks.contenders import CONTENDERS, Task
from benchmarks.foreign_files import (
    LLAMACPP_TYPES,
    RWKVCPP_TYPES,
    cached_gguf,
    cached_huggingface,
    cached_rwkvcpp,
    write_huggingface,
    write_rwkvcpp,
)
from benchmarks.peers import peer_rows
from benchmarks.plain_numpy import read_float32
from benchmarks.rwkvcpp import Library, Model, longest_part, quantize
from benchmarks.worker import Worker
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.kernels import dispatch

ROOT = Path(__file__).resolve().parents[1]
CONFIG = rwkv_cy.Config(d_model=16, num_layers=2, vocab_size=40)
TOKENS = [3, 1, 39, 0, 7, 7, 20]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    write_checkpoint(path, CONFIG)
    return path


def unreachable() -> Path:
    raise AssertionError("the checkpoint is not needed for a file that is there")


class Functions(SimpleNamespace):
    """What ctypes gives for a library: its "model" adds tokens up in a state of one number; logits are (sum, count)."""

    def __init__(self, *, older: bool = False, fails: bool = False) -> None:
        calls: list[tuple[list[int], bool]] = []

        def at(address: int, size: int) -> Any:
            return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (size,))

        def advance(tokens: Sequence[int], before: int | None, after: int, logits: int | None) -> bool:
            calls.append(([int(token) for token in tokens], logits is not None))
            at(after, 1)[0] = (0 if before is None else at(before, 1)[0]) + sum(tokens)
            if logits is not None:
                at(logits, 2)[:] = at(after, 1)[0], len(tokens)
            return not fails

        def rwkv_eval_sequence(_: int, ids: int, count: int, before: int | None, after: int, out: int | None) -> bool:
            tokens = np.ctypeslib.as_array(ctypes.cast(ids, ctypes.POINTER(ctypes.c_uint32)), (count,))
            return advance(tokens, before, after, out)

        lengths = (
            ("state_buffer_element_count", "logits_buffer_element_count") if older else ("state_len", "logits_len")
        )
        super().__init__(
            calls=calls,
            freed=[],
            rwkv_init_from_file=lambda path, threads, layers: 0 if b"bad" in path else 7,
            rwkv_free=lambda context: self.freed.append(context),
            rwkv_eval=lambda context, token, *rest: advance([token], *rest),
            rwkv_quantize_model_file=lambda source, target, dtype: False,
            rwkv_get_system_info_string=lambda: b"AVX2=1",
            **{f"rwkv_get_{name}": lambda context, size=size: size for size, name in enumerate(lengths, 1)},
        )
        if not older:
            self.rwkv_eval_sequence = rwkv_eval_sequence


@pytest.mark.parametrize("dtype", ["FP32", "FP16"])
def test_a_file_of_rwkvcpp_holds_the_checkpoint(tmp_path: Path, checkpoint: Path, dtype: str) -> None:
    path = tmp_path / "tiny.bin"
    write_rwkvcpp(checkpoint, path, dtype)
    with open_source(checkpoint) as original, open_source(path) as source:
        assert source.format == "rwkvcpp"
        assert Checkpoint(source).config == CONFIG
        expected, found = read_float32(original), read_float32(source)
        for name, array in expected.items():
            is_matrix = array.ndim == 2
            assert source.info(name).dtype == ("f16" if is_matrix and dtype == "FP16" else "f32"), name
            array = array.astype(np.float16) if is_matrix and dtype == "FP16" else array
            bound = 1e-6 if name.endswith("time_decay") else 0
            np.testing.assert_allclose(found[name], array, rtol=bound, atol=bound, err_msg=name)


def test_a_folder_of_huggingface_holds_the_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "hub"
    write_huggingface(checkpoint, folder)
    with open_source(folder) as source:
        assert source.format == "huggingface"
        assert Checkpoint(source).config == CONFIG
    expected, _ = rwkv_cy.load(checkpoint).forward(TOKENS, all_logits=True)
    found, _ = rwkv_cy.load(folder).forward(TOKENS, all_logits=True)
    np.testing.assert_array_equal(found, expected)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_files_are_made_once(tmp_path: Path, checkpoint: Path) -> None:
    made = cached_rwkvcpp("tiny", lambda: checkpoint, "FP32", tmp_path, tmp_path)
    assert cached_rwkvcpp("tiny", unreachable, "FP32", tmp_path, tmp_path) == made
    folder = cached_huggingface("tiny", lambda: checkpoint, tmp_path)
    assert cached_huggingface("tiny", unreachable, tmp_path) == folder


def test_a_file_that_was_not_quantized_does_not_appear(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_done(library: Path, source: Path, target: Path, dtype: str) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise SystemExit("no")

    monkeypatch.setattr("benchmarks.foreign_files.quantize", half_done)
    with pytest.raises(SystemExit, match="no"):
        cached_rwkvcpp("tiny", lambda: checkpoint, "Q8_0", tmp_path, tmp_path / "librwkv.so")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-FP16.bin", "tiny.pth"]


@pytest.mark.parametrize(("older", "part"), [(False, 1), (False, 3), (True, 1)])
def test_rwkvcpp_computes_logits_once(monkeypatch: pytest.MonkeyPatch, older: bool, part: int) -> None:
    functions = Functions(older=older)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: functions)
    library = Library(Path("librwkv.so"))
    assert library.system == "AVX2=1"
    assert (library.eval_sequence is None) == older
    with Model(library, Path("model.bin"), 1, part) as model:
        logits, state = model.forward(TOKENS, None)
        assert (logits.tolist(), state.tolist()) == ([77, 1], [77])
        logits, state = model.forward([5], state)
        assert (logits.tolist(), state.tolist()) == ([82, 1], [82])
    parts = [TOKENS[at : at + part] for at in range(0, len(TOKENS), part)]
    assert functions.calls == [*((some, some is parts[-1]) for some in parts), ([5], True)]
    assert functions.freed == [7]


def test_rwkvcpp_that_refuses_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = Functions(fails=True)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: functions)
    library = Library(Path("librwkv.so"))
    with pytest.raises(SystemExit, match=r"bad\.bin: expected a model that this library of rwkv\.cpp opens"):
        Model(library, Path("bad.bin"), 1)
    with pytest.raises(SystemExit, match="a call failed"), Model(library, Path("model.bin"), 1) as model:
        model.forward(TOKENS, None)
    monkeypatch.setattr("sys.argv", ["rwkvcpp", "librwkv.so", "quantize", "a.bin", "b.bin", "Q8_0"])
    with pytest.raises(SystemExit, match=r"a\.bin: rwkv\.cpp did not quantize it to Q8_0"):
        rwkvcpp.main()


def test_a_library_without_sequences_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda path: Functions(older=True))
    monkeypatch.setattr("sys.argv", ["rwkvcpp", "librwkv.so", "try", "a.bin", "8"])
    with pytest.raises(SystemExit, match=r"librwkv\.so: it knows single tokens only"):
        rwkvcpp.main()


def test_what_is_no_library_of_rwkvcpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "librwkv.so"
    text.write_text("no library")
    with pytest.raises(SystemExit, match=r"librwkv\.so: expected a library of rwkv\.cpp: "):
        Library(text)
    with pytest.raises(SystemExit, match="got one without rwkv_init_from_file"):
        Library(Path(dispatch.__file__))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=r"exit code 1: .*librwkv\.so: expected a library of rwkv\.cpp"):
        quantize(text, tmp_path / "a.bin", tmp_path / "b.bin", "Q8_0")


@pytest.mark.parametrize(("most", "expected"), [(100, 64), (11, 8), (1, 1)])
def test_the_longest_part_is_found_by_trying(monkeypatch: pytest.MonkeyPatch, most: int, expected: int) -> None:
    def tried(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0 if int(command[-1]) <= most else -6)

    monkeypatch.setattr(subprocess, "run", tried)
    assert longest_part(Path("librwkv.so"), Path("model.bin")) == expected


def test_a_worker_answers_with_the_models_logits(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    expected, _ = rwkv_cy.load(checkpoint).forward(TOKENS)
    with Worker("rwkv_cy", checkpoint, "f32", threads=1) as worker:
        np.testing.assert_array_equal(np.asarray(worker.logits(TOKENS), np.float32), expected)
        assert worker.seconds([1], keep_state=True) > 0
        assert worker.opening["load_seconds"] > 0


@pytest.mark.parametrize(
    ("shape", "given", "labels"),
    [
        ("169m", (), ["plain NumPy"]),
        ("169m", ("peer_python", "llama_python"), ["plain NumPy", "rwkv", "rwkv", "transformers", "transformers"]),
        ("7-0.1b", ("peer_python",), ["rwkv", "rwkv"]),
        ("7-0.1b", ("llama_python",), ["llama.cpp"] * len(LLAMACPP_TYPES)),
        ("6-0.1b", ("rwkvcpp_library",), ["rwkv.cpp"] * len(RWKVCPP_TYPES)),
        ("8-rc00-0.1b", ("peer_python", "rwkvcpp_library", "llama_python"), []),
    ],
)
def test_programs_that_run_a_version_stand_beside_it(
    monkeypatch: pytest.MonkeyPatch, shape: str, given: Sequence[str], labels: list[str]
) -> None:
    for name in ("cached_checkpoint", "cached_huggingface", "cached_rwkvcpp", "cached_gguf"):
        monkeypatch.setattr(f"benchmarks.peers.{name}", lambda *arguments: Path("a model"))
    named = {"peer_python": None, "rwkvcpp_library": None, "llama_python": None}
    arguments = SimpleNamespace(**named | dict.fromkeys(given, "somewhere"))
    rows = peer_rows(shape, Path("folder"), arguments)  # type: ignore[arg-type]
    assert [row.label for row in rows] == labels
    # Everything is compared with the first.
    assert not rows or rows[0].dtype in ("f32", "FP32")


@pytest.mark.oracle
@pytest.mark.parametrize(("dtype", "bound"), [("f32", 1e-5), ("bf16", 5e-2)])
def test_llama_cpp_as_a_contender_agrees_with_the_model(tmp_path: Path, dtype: str, bound: float) -> None:
    pytest.importorskip("llama_cpp", reason="runs llama.cpp: pip install llama-cpp-python")
    ranks = {"w": 8, "a": 8, "v": 8, "g": 16}
    config = rwkv_cy.Config(d_model=64, num_layers=2, vocab_size=300, architecture="rwkv7", head_size=64, ranks=ranks)
    write_checkpoint(tmp_path / "tiny.pth", config)
    path = cached_gguf("tiny", lambda: tmp_path / "tiny.pth", dtype, tmp_path)
    expected, _ = rwkv_cy.load(tmp_path / "tiny.pth").forward(TOKENS)
    forward = CONTENDERS["llama.cpp"].open(Task(str(path), dtype, 1))
    for _ in range(2):
        state = None
        for part in (TOKENS[:4], TOKENS[4:6], TOKENS[6:]):
            logits, state = forward(part, state)
        assert np.abs(logits - expected).max() < bound * np.abs(expected).max()


@pytest.mark.oracle
@pytest.mark.parametrize("contender", ["rwkv", "transformers"])
@pytest.mark.parametrize(("dtype", "bound"), [("f32", 1e-5), ("bf16", 5e-2)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_contenders_on_torch_agree_with_the_model(
    tmp_path: Path, checkpoint: Path, contender: str, dtype: str, bound: float
) -> None:
    pytest.importorskip("torch", reason="needs torch, rwkv and transformers")
    path = cached_huggingface("tiny", lambda: checkpoint, tmp_path) if contender == "transformers" else checkpoint
    expected, _ = rwkv_cy.load(checkpoint).forward(TOKENS)
    state = None
    # A contender has a process of its own, and sets the environment up for itself.
    with mock.patch.dict(os.environ):
        forward = CONTENDERS[contender].open(Task(str(path), dtype, 1))
        for part in (TOKENS[:4], TOKENS[4:6], TOKENS[6:]):
            logits, state = forward(part, state)
    assert np.abs(logits - expected).max() < bound * np.abs(expected).max()
