"""LanguageModel: against the authors' package, against itself, and errors."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import numbers, random_model, write_small
from rwkv_cy.config import Config
from rwkv_cy.dtypes import widen
from rwkv_cy.errors import (
    ConfigError,
    FormatError,
    NotEnoughMemoryError,
    NumericalError,
    SpecError,
    StateError,
    TokenError,
    TokenizerError,
)
from rwkv_cy.kernels import reference
from rwkv_cy.kernels.matrix import pack
from rwkv_cy.model import language_model, loading
from rwkv_cy.model.encoder import CHUNK_TOKENS
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.state import State
from rwkv_cy.tensors.tensor import Parameter
from rwkv_cy.text import generate
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.perplexity import perplexity

DATA = Path(__file__).resolve().parents[2] / "data"


# --- against others ---


def test_logits_of_the_authors_package(kjv: LanguageModel, heldout: bytes) -> None:
    golden = np.load(DATA / "golden" / "kjv-logits.npy")
    logits, _ = kjv.forward(list(heldout[:500]), all_logits=True)
    assert np.abs(logits - golden).max() <= 1e-4


def test_logits_of_the_demo_model(heldout: bytes) -> None:
    golden = np.load(DATA / "golden" / "kjv7-logits.npy")
    with load(DATA / "kjv7.pth", dtype="f32") as model:
        logits, _ = model.forward(list(heldout[:500]), all_logits=True)
    assert np.abs(logits - golden).max() <= 1e-4


def test_perplexity_of_the_authors_logits(kjv: LanguageModel, heldout: bytes) -> None:
    rows = np.load(DATA / "golden" / "kjv-logits.npy").astype(np.float64)[:-1]
    after = np.frombuffer(heldout[1 : len(rows) + 1], np.uint8)
    nats = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(rows)), after]
    report = perplexity(kjv, heldout[: len(rows) + 1])
    assert report.tokens == len(rows)
    assert f"{report.perplexity:.4g}" == f"{np.exp(nats.mean()):.4g}"


@pytest.mark.slow
def test_perplexity_of_the_authors_package(kjv: LanguageModel, heldout: bytes) -> None:
    golden = json.loads((DATA / "golden" / "kjv-perplexity.json").read_text())
    report = perplexity(kjv, heldout)
    assert report.tokens == golden["tokens"] - 1
    # To four digits, as the golden one is printed and read.
    assert f"{report.perplexity:.4g}" == f"{golden['perplexity']:.4g}"


@pytest.mark.parametrize("name", ["4v0-660K", "5v1-730K", "7v0-834K"])
def test_published_logits(shared: Path, name: str) -> None:
    expected = np.fromfile(shared / "models" / f"expected-logits-{name}.bin", "<f4")
    # The fixture of RWKV-4 cannot see the channel mix (its weights there are about 3e-7); kjv.pth can.
    logits, _ = load(shared / "models" / f"tiny-rwkv-{name}-FP32.bin").forward(list(b'"in'))
    assert np.abs(logits - expected).max() <= 2e-5


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("4v0-660K", "FP16", 3e-2), ("4v0-660K", "Q5_0", 2.0), ("4v0-660K", "Q5_1", 2.0), ("7v0-834K", "FP16", 3e-2)],
)
def test_published_logits_of_narrower_files(shared: Path, name: str, dtype: str, tolerance: float) -> None:
    expected = np.fromfile(shared / "models" / f"expected-logits-{name}.bin", "<f4")
    logits, _ = load(shared / "models" / f"tiny-rwkv-{name}-{dtype}.bin").forward(list(b'"in'))
    assert 0 < np.abs(logits - expected).max() <= tolerance
    assert logits.argmax() == expected.argmax()


# --- against itself ---


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_prompt_is_its_tokens_one_by_one_to_the_last_bit(dtype: str) -> None:
    model = random_model(dtype)
    tokens = np.random.default_rng(1).integers(0, 50, 2 * CHUNK_TOKENS + 3)
    state, rows = None, []
    for token in tokens:
        logits, state = model.forward(int(token), state)
        rows.append(logits)
    for threads in (1, 2, 5):
        every, after = model.forward(tokens, all_logits=True, num_threads=threads)
        last, same = model.forward(tokens, num_threads=threads)
        assert every.tobytes() == np.array(rows).tobytes()
        assert last.tobytes() == rows[-1].tobytes()
        assert after == same == state


def test_every_tensor_moves_the_logits(kjv: LanguageModel, heldout: bytes) -> None:
    tokens = list(heldout[:20])
    usual, _ = kjv.forward(tokens, all_logits=True)
    wide = {name: Parameter(widen(p.array, p.dtype), "f32") for name, p in kjv.parameters.items()}
    rng = np.random.default_rng(0)
    for name, parameter in wide.items():
        noise = rng.standard_normal(parameter.array.shape).astype(np.float32)
        moved = Parameter(parameter.array + 0.1 * noise * np.abs(parameter.array).mean() + 1e-3 * noise, "f32")
        logits, _ = LanguageModel(kjv.config, {**wide, name: moved}).forward(tokens, all_logits=True)
        # 1e-4 is the tolerance of the comparison with the authors' package: it would see each of these.
        assert np.abs(logits - usual).max() > 1e-4, name


def test_states_are_given_back_and_not_changed(kjv: LanguageModel) -> None:
    _, state = kjv.forward(list(b"In the"))
    before = state.copy()
    logits, after = kjv.forward(list(b" beginning"), state)
    assert state == before
    again, same = kjv.forward(list(b" beginning"), state, in_place=True)
    assert same is state
    assert state == after
    assert (again == logits).all()


def test_a_state_goes_through_a_file(kjv: LanguageModel, tmp_path: Path) -> None:
    _, state = kjv.forward(list(b"In the"))
    state.save(tmp_path / "s.h5")
    loaded = State.load(tmp_path / "s.h5")
    assert loaded == state
    assert loaded.fingerprint == kjv.fingerprint
    expected, _ = kjv.forward(32, state)
    assert (kjv.forward(32, loaded)[0] == expected).all()


def test_a_state_of_another_model_is_refused() -> None:
    one, other = random_model(), random_model(seed=1)
    with pytest.raises(StateError, match="expected one of this model"):
        one.forward(1, other.initial_state())
    assert one.fingerprint != other.fingerprint


def test_fingerprints_see_every_tensor() -> None:
    model = random_model(d_model=136, vocab_size=130)
    wide = {name: p.array for name, p in model.parameters.items()}
    seen = {model.fingerprint}
    for name, array in wide.items():
        changed = array.copy()
        changed.reshape(-1)[0] += 1
        seen.add(LanguageModel(model.config, {**wide, name: changed}).fingerprint)
    assert len(seen) == 1 + len(wide)


def test_double_precision(kjv: LanguageModel, kjv_checkpoint: Path, heldout: bytes) -> None:
    double = load(kjv_checkpoint, dtype="f64")
    logits, state = double.forward(list(heldout[:300]), all_logits=True)
    assert logits.dtype == state.data.dtype == np.float64
    single, _ = kjv.forward(list(heldout[:300]), all_logits=True)
    assert 0 < np.abs(single - logits).max() < 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 0.0), ("bf16", 0.0), ("f16", 1e-3)])
def test_other_precisions_in_memory(
    kjv: LanguageModel, kjv_checkpoint: Path, heldout: bytes, dtype: str, tolerance: float
) -> None:
    # The checkpoint is bf16: float32 holds it exactly, and float16 nearly.
    other = load(kjv_checkpoint, dtype=dtype)
    assert other.parameters["head.weight"].dtype == dtype
    assert other.parameters["ln_out.weight"].dtype == "bf16"
    expected, _ = kjv.forward(list(heldout[:100]), all_logits=True)
    assert np.abs(other.forward(list(heldout[:100]), all_logits=True)[0] - expected).max() <= tolerance
    assert other.fingerprint == kjv.fingerprint


@pytest.fixture(scope="module", params=[5000, pytest.param(20_000, marks=pytest.mark.slow)])
def usual(request: pytest.FixtureRequest, kjv: LanguageModel, heldout: bytes) -> tuple[bytes, float]:
    """Return a text, and the perplexity of it before the matrices are quantized."""
    text = heldout[: request.param]
    return text, perplexity(kjv, text).perplexity


@pytest.mark.parametrize(("dtype", "limit"), [("q8", 1.001), ("q6", 1.001), ("q4", 1.02)])
def test_quantized_matrices_predict_nearly_as_well(
    usual: tuple[bytes, float], kjv_checkpoint: Path, heldout: bytes, tmp_path: Path, dtype: str, limit: float
) -> None:
    quantized = load(kjv_checkpoint, dtype=dtype)
    assert quantized.parameters["head.weight"].dtype == dtype
    assert quantized.parameters["emb.weight"].dtype == quantized.parameters["ln_out.weight"].dtype == "bf16"
    text, expected_perplexity = usual
    assert expected_perplexity != perplexity(quantized, text).perplexity < expected_perplexity * limit
    convert(kjv_checkpoint, tmp_path / "m.h5", dtype=dtype)
    expected, state = quantized.forward(list(heldout[:50]), all_logits=True)
    for mmap in (True, False):
        stored = load(tmp_path / "m.h5", mmap=mmap)
        logits, after = stored.forward(list(heldout[:50]), all_logits=True)
        assert logits.tobytes() == expected.tobytes()
        assert after == state
    one_by_one = None
    for token in heldout[:50]:
        _, one_by_one = quantized.forward(token, one_by_one)
    assert one_by_one == state
    wide = load(tmp_path / "m.h5", dtype="f32")
    assert np.abs(wide.forward(list(heldout[:50]), all_logits=True)[0] - expected).max() < 0.5


def test_what_is_quantized_is_not_quantized_again(kjv_checkpoint: Path, tmp_path: Path) -> None:
    convert(kjv_checkpoint, tmp_path / "m.h5", dtype="q8")
    for dtype in ("q4", "q6"):
        with pytest.raises(
            ConfigError,
            match=rf"m\.h5 is already quantized \(43 matrices, first .* load the original as {dtype}",
        ):
            load(tmp_path / "m.h5", dtype=dtype)
    for dtype in ("q8", "f16"):
        assert load(tmp_path / "m.h5", dtype=dtype).parameters["head.weight"].dtype == dtype


def test_nan_is_not_quantized(tmp_path: Path) -> None:
    bad = numbers(np.nan, shape=(32, 32))
    path = write_small(tmp_path / "s", blocks__0__att__value__weight=bad)
    with pytest.raises(
        NumericalError, match=r"blocks\.0\.att\.value\.weight: expected finite weights to quantize to q8"
    ):
        load(path, dtype="q8")


def test_rescaling_changes_little(kjv: LanguageModel, kjv_checkpoint: Path, heldout: bytes) -> None:
    rescaled = load(kjv_checkpoint, rescale_layer=2)
    expected, _ = kjv.forward(list(heldout[:100]), all_logits=True)
    logits, _ = rescaled.forward(list(heldout[:100]), all_logits=True)
    # LayerNorm's eps does not scale along, so the results are near and not the same.
    assert 0 < np.abs(logits - expected).max() < 1e-2


def test_threads_share_one_model(kjv: LanguageModel, heldout: bytes) -> None:
    texts = [list(heldout[i * 100 : i * 100 + 60]) for i in range(4)]
    expected = [kjv.forward(text)[0] for text in texts]
    results: list[np.ndarray | None] = [None] * 4

    def work(worker: int) -> None:
        state = None
        for token in texts[worker]:
            logits, state = kjv.forward(token, state, num_threads=2)
        results[worker] = logits

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, wanted in zip(results, expected, strict=True):
        assert result is not None
        assert result.tobytes() == wanted.tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_on() -> None:
    model = random_model(d_model=512, num_layers=2)
    expected, _ = model.forward(list(range(40)), num_threads=2)  # the threads have run before the fork
    pid = os.fork()
    if pid == 0:
        logits, _ = model.forward(list(range(40)), num_threads=2)
        os._exit(0 if logits.tobytes() == expected.tobytes() else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    again, _ = model.forward(list(range(40)), num_threads=2)
    assert again.tobytes() == expected.tobytes()


# --- bad input ---


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (-1, r"tokens\[0\]: expected an id from 0 to 255, got -1"),
        ([1, 2, 256], r"tokens\[2\]: expected an id from 0 to 255, got 256"),
        ([2**63], r"tokens\[0\]: expected an id from 0 to 255, got 9223372036854775808"),
        ([2**70], "tokens: expected integers, got one that is larger than any id"),
        (2**70, "tokens: expected integers, got one that is larger than any id"),
        ({1, 2}, "tokens: expected integers, got set"),
        (iter([1]), "tokens: expected integers, got list_iterator"),
        ([1, None], "tokens: expected integers, got NoneType"),
        ([], "^tokens is empty; give at least one$"),
        ([[1, 2]], r"expected an integer or a flat sequence of them, got shape \(1, 2\)"),
        (["a", "b"], "expected token ids, got several texts; pass one text"),
        ([[1], [2, 3]], "tokens: expected an integer or a flat sequence of them"),
        ([1.0], "tokens: expected integers, got float64"),
        ([True], "tokens: expected integers, got bool"),
        ("abc", "tokens: expected integers, got str; encode it first with model.tokenizer.encode"),
        (b"abc", "tokens: expected integers, got bytes; encode it first"),
        (None, "tokens: expected integers, got NoneType"),
    ],
)
def test_impossible_tokens(kjv: LanguageModel, tokens: object, message: str) -> None:
    with pytest.raises(TokenError, match=message):
        kjv.forward(tokens)  # type: ignore[arg-type]


def test_generate_has_the_arguments_of_the_function() -> None:
    own, function = (inspect.signature(f).parameters for f in (LanguageModel.generate, generate))
    assert list(own)[2:] == list(function)[2:]
    assert [own[name].default for name in list(own)[2:]] == [function[name].default for name in list(own)[2:]]


def test_an_invalid_tokenizer(kjv_checkpoint: Path) -> None:
    message = 'tokenizer: expected "bytes", "world", a vocabulary file or a Tokenizer, got int'
    with pytest.raises(TokenizerError, match=message):
        load(kjv_checkpoint, tokenizer=5)  # type: ignore[arg-type]


def test_models_say_what_they_are(kjv: LanguageModel, kjv_checkpoint: Path) -> None:
    assert repr(kjv) == "LanguageModel(RWKV-4, num_layers=6, d_model=128, 1,352,448 parameters in bf16)"
    with load(kjv_checkpoint, dtype="q8") as quantized:
        assert repr(quantized).endswith(", 1,352,448 parameters in q8 and bf16)")
    assert repr(kjv.encoder) == f"Model({kjv.config})"


def test_impossible_options(kjv: LanguageModel, kjv_checkpoint: Path) -> None:
    with pytest.raises(
        ConfigError, match="dtype: expected one of bf12, bf16, f16, f32, f64, q4, q4n, q6, q8, got 'q3'"
    ):
        load(kjv_checkpoint, dtype="q3")
    for other in (np.float16, np.dtype("float16")):
        with pytest.raises(ConfigError, match=r"q8, got .*float16.*; did you mean 'f16'\?$"):
            load(kjv_checkpoint, dtype=other)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="q8, got <class 'numpy.int8'>$"):
        load(kjv_checkpoint, dtype=np.int8)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"Config\.rescale_layer"):
        load(kjv_checkpoint, rescale_layer=-1)


def test_parameters_that_do_not_fit() -> None:
    model = random_model()
    with pytest.raises(SpecError, match="LanguageModel: missing head.weight"):
        LanguageModel(model.config, {name: p for name, p in model.parameters.items() if name != "head.weight"})
    with pytest.raises(ConfigError, match="expected a Config with a vocab_size, got 0"):
        LanguageModel(Config(d_model=8, num_layers=1), {})


def test_only_matrices_may_be_transposed() -> None:
    """A transposed embedding with vocab_size equal to d_model has a valid shape, and must be refused all the same."""
    model = random_model()
    table = model.parameters["emb.weight"].array
    by_columns = Parameter(np.ascontiguousarray(table.T), "f32", transposed=True)
    with pytest.raises(SpecError, match=r"LanguageModel: emb\.weight: expected an array that is not transposed, got"):
        LanguageModel(model.config, {**model.parameters, "emb.weight": by_columns})
    packed = Parameter(pack(table, "q8"), "q8", table.shape)
    with pytest.raises(SpecError, match=r"LanguageModel: emb\.weight: expected a floating point type, got q8"):
        LanguageModel(model.config, {**model.parameters, "emb.weight": packed})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.1.att.value.weight", "token 1 at 0: expected finite numbers, layer 1 gave NaN"),
        ("blocks.2.ffn.value.weight", "token 1 at 0: expected finite numbers, layer 2 gave NaN"),
        # What decays is the state: the first token does not see it.
        ("blocks.1.att.time_decay", "token 1 at 0: expected finite numbers, layer 1 gave NaN"),
        ("head.weight", "expected finite logits, ln_out or head gave NaN"),
    ],
)
def test_nan_in_the_weights_is_traced_to_its_layer(name: str, message: str) -> None:
    model = random_model()
    parameters = {key: p.array.copy() for key, p in model.parameters.items()}
    parameters[name].reshape(-1)[0] = np.nan
    broken = LanguageModel(model.config, parameters)
    with pytest.raises(NumericalError, match=message):
        broken.forward([1, 2, 3])


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_logits_are_the_head_of_the_normed_encoder(eps: float) -> None:
    usual = random_model()
    model = LanguageModel(replace(usual.config, layer_norm_eps=eps), usual.parameters)
    own = {name: p.array.astype(np.float64) for name, p in model.parameters.items()}
    ys, after = model.encoder.forward_sequence(own["emb.weight"][[4, 7, 1]])
    normed = reference.layer_norm(ys.astype(np.float64), own["ln_out.weight"], own["ln_out.bias"], eps)
    expected = reference.matmul(own["head.weight"], normed)
    logits, state = model.forward([4, 7, 1], all_logits=True)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    assert state == after


@pytest.mark.parametrize(
    "given",
    [
        np.array([4, 0, 7, 0, 1, 0])[::2],
        np.array([1, 7, 4])[::-1],
        np.array([[4, 0], [7, 0], [1, 0]])[:, 0],
        np.array([4, 7, 1], ">i8"),
        np.array([4, 7, 1], np.uint8),
        np.frombuffer(bytes(1) + np.array([4, 7, 1]).tobytes(), np.int64, offset=1),
    ],
    ids=["strided", "reversed", "a column", "big-endian", "bytes", "misaligned"],
)
def test_tokens_in_an_array_of_any_kind(given: np.ndarray) -> None:
    model = random_model()
    given.flags.writeable = False
    for all_logits in (False, True):
        expected, state = model.forward([4, 7, 1], all_logits=all_logits)
        found, after = model.forward(given, all_logits=all_logits)
        np.testing.assert_array_equal(found, expected)
        assert after == state


def test_scratch_is_used_again() -> None:
    model = random_model()
    model.forward([1, 2, 3])
    (workspace,) = model.encoder._workspaces
    model.forward([4])
    assert model.encoder._workspaces == [workspace]


def test_infinite_logits_are_an_error_and_huge_ones_are_not() -> None:
    model = random_model()
    parameters = {key: p.array.copy() for key, p in model.parameters.items()}
    parameters["ln_out.bias"][...] = 1.0
    parameters["head.weight"][...] = 3e38
    parameters["head.weight"][::2] = -3e38
    with pytest.raises(NumericalError, match="expected finite logits, ln_out or head gave NaN or infinity"):
        LanguageModel(model.config, parameters).forward([1])
    # Each is finite, and their sum is not.
    parameters["head.weight"][...] = 3e38 / model.config.d_model / 4
    logits, _ = LanguageModel(model.config, parameters).forward([1])
    assert np.isfinite(logits).all()
    assert abs(logits.sum(dtype=np.float64)) > np.finfo(np.float32).max


def test_the_logits_of_every_chunk_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    model, chunks = random_model(), []

    def first_is_not_finite(xs: np.ndarray, result: np.ndarray, num_threads: int) -> bool:
        chunks.append(len(xs))
        return len(chunks) > 1

    monkeypatch.setattr(model, "_logits", first_is_not_finite)
    with pytest.raises(NumericalError, match="expected finite logits"):
        model.forward([1] * (CHUNK_TOKENS + 3), all_logits=True)
    assert chunks == [CHUNK_TOKENS, 3]


def test_threads_are_woken_before_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, woken = random_model(), []
    monkeypatch.setattr(language_model, "wake", woken.append)
    model.forward(1, num_threads=3)
    model.forward_batch([1, [2, 3]], num_threads=2)
    assert woken == [3, 2]


def test_nan_in_the_embedding_and_in_the_state() -> None:
    model = random_model()
    parameters = {key: p.array.copy() for key, p in model.parameters.items()}
    parameters["emb.weight"][7, 5] = np.inf
    broken = LanguageModel(model.config, parameters)
    assert np.isfinite(broken.forward([1, 2])[0]).all()
    with pytest.raises(NumericalError, match=r"token 7 at 1: its row of emb\.weight is not finite"):
        broken.forward([1, 7, 2])
    state = model.initial_state()
    state.data[0, 0] = np.nan
    before = state.copy()
    with pytest.raises(NumericalError, match="expected a finite state, got NaN or infinity in it"):
        model.forward(1, state)
    assert state == before
    state = broken.initial_state()
    with pytest.raises(NumericalError, match=r"^expected finite numbers, emb\.weight or the LayerNorms of layer 0"):
        broken.forward(7, state, in_place=True)
    with pytest.raises(StateError, match="expected a complete state"):
        broken.forward(1, state)


def test_a_file_cut_under_its_map(kjv_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    shutil.copy(kjv_checkpoint, path)
    model = load(path)
    model.forward(1)
    os.truncate(path, 100_000)
    with pytest.raises(FormatError, match=r"m\.pth: expected 2731579 bytes \(2.73 MB\), got 100000 bytes"):
        model.forward(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, state: model.forward(1, state),
        lambda model, state: model.forward_batch([1, 2], [state, None]),
        lambda model, state: model.hidden([1, 2], state),
        lambda model, state: model.embed(b"text"),
    ],
)
def test_a_file_cut_in_the_middle_of_a_call(
    kjv_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> None:
    path = tmp_path / "m.pth"
    shutil.copy(kjv_checkpoint, path)
    model = load(path)
    state = model.forward(1)[1]
    run = model.encoder.run

    def cut_and_run(*arguments: Any, **options: Any) -> None:
        os.truncate(path, 100_000)
        run(*arguments, **options)

    monkeypatch.setattr(model.encoder, "run", cut_and_run)
    with pytest.raises(FormatError, match=r"m\.pth: expected 2731579 bytes \(2.73 MB\), got 100000"):
        call(model, state)


@pytest.mark.parametrize("how", [{"mmap": False}, {"dtype": "f32"}])
def test_a_resident_model_outlives_its_file(kjv_checkpoint: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    path = tmp_path / "m.pth"
    shutil.copy(kjv_checkpoint, path)
    model = load(path, **how)
    expected, _ = model.forward(1)
    os.truncate(path, 0)
    assert (model.forward(1)[0] == expected).all()


def test_a_file_replaced_under_its_map(kjv_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    shutil.copy(kjv_checkpoint, path)
    model = load(path)
    expected, _ = model.forward(1)
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "other").replace(path)
    assert (model.forward(1)[0] == expected).all()


def test_an_interrupt_in_the_middle_of_a_long_prefill(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is heard between blocks of tokens. The state given is unchanged, or invalid if it was being updated."""
    _, state = kjv.forward([65])
    before = state.copy()
    run, calls = kjv.encoder.run, []

    def interrupted(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        run(*arguments, **options)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(kjv.encoder, "run", interrupted)
    for in_place in (False, True):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            kjv.forward([65] * (3 * CHUNK_TOKENS), state, in_place=in_place)
        assert len(calls) == 2
        if not in_place:
            assert state == before
    with pytest.raises(StateError, match="expected a complete state"):
        kjv.forward(65, state)


def test_too_little_memory_is_said_before_loading(kjv_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "available_memory", lambda: 1 << 20)
    with pytest.raises(
        NotEnoughMemoryError, match=r"not enough memory for parameters and states: need [0-9.]+ MB, [0-9.]+ MB free"
    ):
        load(kjv_checkpoint, dtype="f32")
    with pytest.raises(
        NotEnoughMemoryError, match=r"not enough memory for parameters and states: need [0-9.]+ MB, [0-9.]+ MB free"
    ):
        load(kjv_checkpoint, mmap=False)
    with pytest.warns(
        RuntimeWarning, match=r"its weights take [0-9.]+ MB, and 1\.05 MB of memory is free: every token"
    ):
        load(kjv_checkpoint)  # mapped
    monkeypatch.setattr(loading, "available_memory", lambda: None)
    load(kjv_checkpoint, dtype="f32")


def test_a_million_tokens_take_bounded_memory() -> None:
    model = random_model(d_model=8, num_layers=1, vocab_size=4)
    tokens = np.zeros(1_000_000, np.int64)
    tracemalloc.start()
    try:
        logits, _ = model.forward(tokens)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.isfinite(logits).all()
    # One vector of each token would take 32 MB.
    assert peak < 8 << 20
