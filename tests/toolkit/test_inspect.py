from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from checkpoints import numbers, small_parameters, write_safetensors, write_small
from formats import foreign
from formats.foreign import rwkv7_parameters
from formats.make_gguf import Gguf, rwkv7_tensors, rwkv7_values, world_like
from rwkv7_shapes import rwkv7_config
from rwkv_cy.checkpoint import tokenizer_choice
from rwkv_cy.dtypes import QUANTIZED_TYPES
from rwkv_cy.errors import FormatError, StorageError
from rwkv_cy.formats.ggml.source import GgmlSource
from rwkv_cy.formats.gguf import vocabulary
from rwkv_cy.formats.raw import RawSource
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.toolkit import inspect as module
from rwkv_cy.toolkit.bandwidth import BandwidthSample
from rwkv_cy.toolkit.bench import Measurement
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.expectation import PRECISIONS
from rwkv_cy.toolkit.inspect import inspect

COUNT = sum(array.size for array in small_parameters().values())


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to read a tensor's numbers."""

    def refuse(*arguments: object) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr(RawSource, "read_into", refuse)


@pytest.mark.usefixtures("no_weights")
def test_a_checkpoint_from_its_headers(tmp_path: Path) -> None:
    path = write_small(tmp_path / "s")
    report = inspect(str(path))
    assert (report.path, report.format, report.architecture) == (path, "safetensors", "RWKV-4")
    assert report.config is not None
    assert (report.config.d_model, report.config.num_layers, report.config.vocab_size) == (32, 2, 256)
    assert report.num_parameters == COUNT
    assert report.dtypes == {"f32": len(small_parameters())}
    assert report.bytes_on_disk == path.stat().st_size
    assert report.bytes_in_memory == 4 * COUNT
    assert report.memory["f32"] == 4 * COUNT
    assert report.state_bytes == 2 * 5 * 32 * 4
    assert (report.fingerprint, report.created_by, report.source) == (None, None, {})
    assert report.problems == ()
    assert [tensor.name for tensor in report.tensors] == list(small_parameters())
    assert report.tensors[0].shape == (256, 32)
    assert report.tensors[0].nbytes == 4 * 256 * 32
    assert all(tensor.statistics is None for tensor in report.tensors)


@pytest.mark.parametrize(
    ("vocab_size", "characters", "tokenizer"),
    [
        (256, 0, "bytes (not in the file)"),
        (300, 0, None),
        (300, 300, "vocab.json (beside the file)"),
        (300, 301, None),  # another model's
    ],
)
def test_the_tokenizer_that_loading_a_checkpoint_takes(
    tmp_path: Path, vocab_size: int, characters: int, tokenizer: str | None
) -> None:
    if characters:
        (tmp_path / "vocab.json").write_text(json.dumps({i: chr(0x4E00 + i) for i in range(characters)}))
    assert inspect(write_small(tmp_path / "s", vocab=vocab_size)).tokenizer == tokenizer


def test_a_model_file(kjv_checkpoint: Path, tmp_path: Path) -> None:
    converted = convert(kjv_checkpoint, tmp_path / "m")
    report = inspect(tmp_path / "m")
    assert (report.format, report.tokenizer) == ("hdf5", "bytes")
    assert report.fingerprint == converted.fingerprint
    assert report.source["sha256"] == converted.source_sha256
    assert report.created_by is not None
    assert report.metadata == {}
    assert report.num_parameters == 1_352_448
    assert report.bytes_in_memory == 2 * 1_352_448


def test_a_quantized_file_is_larger_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "q"
    path.write_bytes(foreign.rwkvcpp_bytes(small_parameters(), "q8_0"))
    report = inspect(path)
    assert set(report.dtypes) == {"f32", "f16", "q8_0"}
    loaded = [parameter.array.nbytes for parameter in load(path).parameters.values()]
    assert report.bytes_in_memory == sum(loaded) == report.memory["bf16"]  # the matrices become f16
    assert report.bytes_on_disk < report.bytes_in_memory
    assert report.metadata["data_type"] == "q8_0"


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_a_quantized_model_file(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "m"
    plan = convert(write_small(tmp_path / "s"), path, dtype=dtype).plan
    report = inspect(path, stats=True)
    matrices = [tensor for tensor in plan.tensors if tensor.kind in ("matrix", "head")]
    assert report.dtypes == {dtype: len(matrices), "f16": 1, "f32": len(plan.tensors) - len(matrices) - 1}
    assert report.num_parameters == COUNT
    assert report.bytes_in_memory == plan.nbytes == sum(tensor.nbytes for tensor in report.tensors)
    head = {tensor.name: tensor for tensor in report.tensors}["head.weight"]
    original = small_parameters()["head.weight"]
    assert (head.shape, head.dtype) == (original.shape, dtype)
    assert head.statistics is not None
    assert head.statistics.maximum == pytest.approx(original.max(), rel=0.1)
    assert head.statistics.std == pytest.approx(original.std(), rel=0.02)


@pytest.mark.parametrize("dtype", [dtype for dtype in PRECISIONS if dtype])
def test_the_estimated_memory_is_that_of_the_converted_model(tmp_path: Path, dtype: str) -> None:
    path = write_small(tmp_path / "s")
    convert(path, tmp_path / "m", dtype=dtype)
    report = inspect(tmp_path / "m")
    assert inspect(path).memory[dtype] == report.memory[dtype] == report.bytes_in_memory


def test_what_cannot_be_loaded_has_no_estimate(tmp_path: Path) -> None:
    parameters = small_parameters()
    del parameters["ln_out.bias"]
    report = inspect(write_safetensors(tmp_path / "s", parameters))
    assert report.memory == {}
    assert report.state_bytes == 2 * 5 * 32 * 4


def test_progress_of_statistics(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    inspect(write_small(tmp_path / "s"), True, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) >= len(small_parameters())
    assert seen == sorted(seen)
    assert seen[-1] == (4 * COUNT, 4 * COUNT)


def test_progress_within_a_tensor(tmp_path: Path) -> None:
    head = numbers(shape=(256, 32 * 128))
    seen: list[tuple[int, int]] = []
    path = write_safetensors(tmp_path / "s", {"head.weight": head})
    inspect(path, True, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [head.nbytes * part // 4 for part in (1, 2, 3, 4, 4)]


def test_statistics_of_requested_tensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = RawSource.read_into

    def watch(self: RawSource, name: str, buffer: np.ndarray, start: int = 0) -> None:
        read.append(name)
        original(self, name, buffer, start)

    monkeypatch.setattr(RawSource, "read_into", watch)
    report = inspect(write_small(tmp_path / "s"), True, tensors="ln_out.*")
    assert [tensor.name for tensor in report.tensors] == ["ln_out.weight", "ln_out.bias"]
    assert set(read) == {"ln_out.weight", "ln_out.bias"}
    assert inspect(tmp_path / "s", tensors=None).tensors == ()


def test_a_folder_counts_all_its_shards(tmp_path: Path) -> None:
    shard = write_small(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    report = inspect(tmp_path)
    assert report.format == "huggingface"
    assert report.bytes_on_disk == shard.stat().st_size


def test_statistics(tmp_path: Path) -> None:
    head = numbers(np.nan, np.inf, -3.0, 5.0, 0.0, shape=(256, 32))
    report = inspect(write_small(tmp_path / "s", head__weight=head), stats=True)
    found = {tensor.name: tensor.statistics for tensor in report.tensors}["head.weight"]
    assert found is not None
    finite = head[np.isfinite(head)].astype(np.float64)
    assert (found.minimum, found.maximum, found.zeros, found.nan, found.inf) == (-3.0, 5.0, 1, 1, 1)
    assert (found.mean, found.std) == (pytest.approx(finite.mean()), pytest.approx(finite.std()))
    assert all(tensor.statistics is not None for tensor in report.tensors)


def test_a_version_that_does_not_run_is_named(tmp_path: Path) -> None:
    parameters = small_parameters() | {"blocks.0.tiny_q.weight": numbers(shape=(1, 32))}
    report = inspect(write_safetensors(tmp_path / "s", parameters))
    assert report.architecture == "RWKV-4a or 4b"
    assert report.config is None
    assert "found RWKV-4a or 4b, whose attention keeps every past token" in report.problems[0]
    assert report.num_parameters == COUNT + 32


def test_a_file_that_is_no_rwkv_is_described(tmp_path: Path) -> None:
    report = inspect(write_safetensors(tmp_path / "s", {"conv1": numbers(shape=(3, 3))}))
    assert (report.architecture, report.config, report.num_parameters) == (None, None, 9)
    assert "expected the parameters of an RWKV model" in report.problems[0]


def test_missing_and_misshapen_parameters_are_all_told(tmp_path: Path) -> None:
    parameters = small_parameters()
    del parameters["ln_out.bias"]
    parameters["head.weight"] = numbers(shape=(256, 31))
    report = inspect(write_safetensors(tmp_path / "s", parameters))
    assert report.config is not None
    assert "missing ln_out.bias (32,)" in report.problems[0]
    assert "head.weight: expected shape (256, 32), got (256, 31)" in report.problems[0]


@pytest.mark.parametrize("stats", [False, True])
def test_the_report_is_json(kjv_checkpoint: Path, tmp_path: Path, stats: bool) -> None:
    convert(kjv_checkpoint, tmp_path / "m")
    written = json.loads(json.dumps(inspect(tmp_path / "m", stats).to_dict(), allow_nan=False))
    assert written["schema"] == "rwkv-cy/inspect/1"
    assert written["config"]["architecture"] == "rwkv4"
    assert written["path"] == str(tmp_path / "m")
    assert written["tensors"][0]["shape"] == [256, 128]
    assert (written["tensors"][0]["statistics"] is not None) == stats


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(FormatError, match="is empty; download"):
        inspect(tmp_path / "empty")
    with pytest.raises(StorageError, match="No such file or directory"):
        inspect(tmp_path / "none")


def test_heads_ranks_and_state_of_rwkv7(tmp_path: Path) -> None:
    config = rwkv7_config(96, 3, 32, (16, 8, 8, 24))
    model = LanguageModel.new(config, 0)
    arrays = {name: parameter.array for name, parameter in model.parameters.items()}
    report = inspect(write_safetensors(tmp_path / "s", arrays))
    assert report.problems == ()
    assert report.config is not None
    assert (report.config.head_size, dict(report.config.ranks)) == (32, {"w": 16, "a": 8, "v": 8, "g": 24})
    assert report.state_bytes == model.initial_state().nbytes
    assert report.memory["f32"] == sum(array.nbytes for array in arrays.values())
    matrices = sum(array.size for name, array in arrays.items() if name.endswith(("key.weight", "value.weight")))
    assert report.memory["f32"] - report.memory["bf16"] > 2 * matrices


def test_a_gguf_file_is_described_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary is not decoded, and no tensor is read."""
    parameters = rwkv7_parameters(vocab=8)
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf([*rwkv7_values(parameters), *world_like([b"a"], 8)], rwkv7_tensors(parameters)).to_bytes())
    monkeypatch.setattr(vocabulary, "_strings", lambda *arguments: pytest.fail("decoded"))
    monkeypatch.setattr(GgmlSource, "read_into", lambda *arguments: pytest.fail("read"))
    report = inspect(path)
    assert (report.format, report.architecture, report.problems) == ("gguf", "RWKV-7", ())
    assert report.tokenizer == "world (in the file)"
    assert report.memory["f32"] == sum(
        array.nbytes for name, array in parameters.items() if not re.fullmatch(r"blocks\.0\.att\.v[012]", name)
    )


def test_tensors_by_kind(tmp_path: Path) -> None:
    config = rwkv7_config(96, 3, 32, (16, 8, 8, 24))
    model = LanguageModel.new(config, 0)
    arrays = {name: parameter.array for name, parameter in model.parameters.items()}
    report = inspect(write_safetensors(tmp_path / "s", arrays))
    groups = {group.kind: group for group in report.groups}
    assert list(groups) == ["embedding", "matrix", "low_rank", "vector", "head"]
    assert (groups["matrix"].tensors, groups["matrix"].dtypes) == (18, {"f32": 18})
    assert groups["low_rank"].parameters == sum(
        array.size for name, array in arrays.items() if re.search(r"\.[wavg][12]$", name)
    )
    assert sum(group.tensors for group in report.groups) == report.num_tensors == len(arrays)
    assert sum(group.nbytes for group in report.groups) == 4 * report.num_parameters
    other = inspect(write_safetensors(tmp_path / "t", {"conv1": numbers(shape=(3, 3))}))
    assert [(group.kind, group.parameters) for group in other.groups] == [("other", 9)]


@pytest.mark.parametrize("dtype", [None, "f32", "bf16", "q8"])
def test_what_a_token_reads_is_what_the_benchmark_measures(kjv_checkpoint: Path, dtype: str | None) -> None:
    measured = Measurement(load(kjv_checkpoint, dtype=dtype), 1, 1)
    expected = {one.dtype: one for one in inspect(kjv_checkpoint).expected}[dtype]
    assert expected.token_bytes == measured.token_bytes


def test_the_speed_to_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_small(tmp_path / "s")
    monkeypatch.setattr(BandwidthSample, "result", lambda self: 1e9)
    monkeypatch.setattr(module, "available_memory", lambda: 4 * COUNT - 1)
    report = inspect(path)
    assert report.machine.read_bandwidth == 1e9
    found = {one.dtype: (one.fits, one.tokens_per_second) for one in report.expected}
    assert found[None] == found["f32"] == (False, None)
    assert found["q8"] == (True, 1e9 / {one.dtype: one.token_bytes for one in report.expected}["q8"])
    assert report.warnings == ()
    monkeypatch.setattr(module, "available_memory", lambda: 5000)
    (warning,) = inspect(path).warnings
    assert warning.startswith("this machine has 5.00 kB of memory available, and the model needs ")
    unknown = inspect(path, speed=False)
    assert unknown.machine.read_bandwidth is None
    assert all(one.tokens_per_second is None for one in unknown.expected)


def test_a_foreign_file_has_no_keys_of_this_package(tmp_path: Path) -> None:
    parameters = rwkv7_parameters(vocab=8)
    path = tmp_path / "m.gguf"
    path.write_bytes(Gguf([*rwkv7_values(parameters), *world_like([b"a"], 8)], rwkv7_tensors(parameters)).to_bytes())
    report = inspect(path)
    assert report.metadata["rwkv7.attention.layer_norm_epsilon"] == "1e-05"
    assert all("." in key for key in report.metadata)
    assert report.config is not None
    assert report.config.layer_norm_eps == 1e-5


def test_a_world_vocabulary_is_told_without_being_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_small(tmp_path / "s", vocab=65536)
    vocabulary_file = tmp_path / "rwkv_vocab_v20230424.txt"
    vocabulary_file.write_bytes(b"1 'a' 1\n65529 'b' 1\n")
    monkeypatch.setattr(tokenizer_choice, "named_tokenizer", lambda *arguments: pytest.fail("decoded"))
    assert inspect(path).tokenizer == "rwkv_vocab_v20230424.txt (beside the file)"
    vocabulary_file.write_bytes(b"1 'a' 1\n300 'b' 1\n")
    monkeypatch.setattr(tokenizer_choice, "packaged_vocabulary", lambda: vocabulary_file)
    report = inspect(path)
    assert report.tokenizer is None
    assert "expected a tokenizer of about 65536 tokens, as the model has, got world with 301" in report.warnings[0]
