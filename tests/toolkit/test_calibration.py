"""Calibration: smaller divergence on another text, and the same result however it is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from rwkv_cy import Config, load, quantize
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.dtypes import to_storage
from rwkv_cy.errors import ConfigError, TokenError
from rwkv_cy.runtime import get_num_threads, set_num_threads
from rwkv_cy.storage import open_model
from rwkv_cy.toolkit.calibration import Calibration, calibrate
from rwkv_cy.toolkit.divergence import divergence
from rwkv_cy.toolkit.verify import verify

TEXT = (Path(__file__).parents[2] / "data" / "kjv-heldout.txt").read_bytes()


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of kjv.pth's widths and type, with two layers of random weights."""
    parameters = random_checkpoint(Config(d_model=128, num_layers=2, vocab_size=256, d_ffn=512))
    stored = {name: to_storage(array, "f32", "bf16") for name, array in parameters.items()}
    return write_safetensors(tmp_path_factory.mktemp("two") / "two.safetensors", stored)


@pytest.fixture(scope="module")
def calibration(kjv_checkpoint: Path) -> Calibration:
    return calibrate(kjv_checkpoint, TEXT[:20_000])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, kjv_checkpoint: Path, calibration: Calibration) -> Path:
    """Return kjv.pth as q4n with the calibration; tests only read it."""
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.h5"
    quantize(kjv_checkpoint, path, "q4n", calibrate=calibration)
    return path


@pytest.mark.parametrize("tokens", [3000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_divergence_on_another_text_is_smaller(
    tmp_path: Path, kjv_checkpoint: Path, calibrated: Path, tokens: int
) -> None:
    quantize(kjv_checkpoint, tmp_path / "plain.h5", "q4n")
    with load(kjv_checkpoint, dtype="f32") as reference:
        kl = []
        for path in (calibrated, tmp_path / "plain.h5"):
            with load(path) as model:
                kl.append(divergence(reference, model, TEXT[60_000 : 60_000 + tokens]).kl)
    assert 0 < kl[0] < 0.9 * kl[1]


def test_any_number_of_threads_gives_the_same(tmp_path: Path, two_layers: Path) -> None:
    results = [calibrate(two_layers, TEXT[:700], num_threads=threads) for threads in (1, 2, 3)]
    for name, inputs in results[0].inputs.items():
        assert all(other.inputs[name].rows.tobytes() == inputs.rows.tobytes() for other in results[1:])
    assert len({result.sha256 for result in results}) == 1
    before, files = get_num_threads(), set()
    try:
        for threads in (1, 3):
            set_num_threads(threads)
            quantize(two_layers, tmp_path / f"{threads}.h5", "q4n", calibrate=results[0])
            files.add((tmp_path / f"{threads}.h5").read_bytes())
    finally:
        set_num_threads(before)
    assert len(files) == 1


def test_inputs_are_those_of_evenly_spaced_tokens(kjv_checkpoint: Path) -> None:
    tokens = np.frombuffer(TEXT[:512], np.uint8)
    found = calibrate(kjv_checkpoint, tokens).inputs
    with load(kjv_checkpoint) as model:
        hidden = model.hidden(tokens)[0]
    np.testing.assert_allclose(found["head.weight"].rows, hidden[1::2], rtol=1e-4, atol=1e-4)
    with open_source(kjv_checkpoint) as source:
        expected = {spec.name: (256, spec.shape[1]) for spec in Checkpoint(source).specs if spec.quantizable}
    assert {name: inputs.rows.shape for name, inputs in found.items()} == expected
    assert all(inputs.rows.any(axis=1).all() for inputs in found.values())


def test_text_and_calibration_give_the_same_file(tmp_path: Path, two_layers: Path) -> None:
    quantize(two_layers, tmp_path / "one.h5", "q4", calibrate=TEXT[:500])
    quantize(two_layers, tmp_path / "two.h5", "q4", calibrate=calibrate(two_layers, TEXT[:500]))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


@pytest.mark.parametrize("dtype", ["q4n", "q6"])
def test_the_file_says_so_and_is_verified(
    tmp_path: Path, kjv_checkpoint: Path, calibration: Calibration, calibrated: Path, dtype: str
) -> None:
    path = calibrated
    if dtype != "q4n":
        path = tmp_path / "model.h5"
        quantize(kjv_checkpoint, path, dtype, calibrate=calibration)
    with open_model(path) as file:
        assert file.header.source["calibration"] == f"20000 tokens, sha256 {calibration.sha256}"
    check = verify(path, against=kjv_checkpoint)
    assert check.ok
    assert check.against is not None
    assert check.against.within == 43


def test_another_matrix_is_noticed_in_a_calibrated_file(tmp_path: Path, two_layers: Path) -> None:
    path, other = tmp_path / "model.h5", tmp_path / "other.safetensors"
    quantize(two_layers, path, "q4n", calibrate=TEXT[:500])
    data = two_layers.read_bytes()
    with open_source(two_layers) as source:
        array = np.empty(128 * 128, np.uint16)
        source.read_into("blocks.1.att.key.weight", array, 0)
    at = data.index(array.tobytes())
    other.write_bytes(data[:at] + array[::-1].tobytes() + data[at + array.nbytes :])
    check = verify(path, against=other)
    assert "blocks.1.att.key.weight: expected the numbers of" in " ".join(
        check.against.problems if check.against else ()
    )


def test_what_is_refused(tmp_path: Path, kjv_checkpoint: Path) -> None:
    for empty in ("", b"", []):
        with pytest.raises(TokenError, match="text: expected a text to calibrate with, got an empty one"):
            quantize(kjv_checkpoint, tmp_path / "a.h5", "q4n", calibrate=empty)
    with pytest.raises(ConfigError, match="calibrate: expected a matrix to quantize to q6, q4, q4n, whose scales are"):
        quantize(kjv_checkpoint, tmp_path / "a.h5", "q8", calibrate="text")
    with pytest.raises(TokenError, match="expected an id from 0 to 255, got 256"):
        quantize(kjv_checkpoint, tmp_path / "a.h5", "q4n", calibrate=[1, 256])
    assert list(tmp_path.iterdir()) == []
