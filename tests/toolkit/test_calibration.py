"""Calibration: smaller divergence on another text, and the same result however it is computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkv_cy import load, quantize
from rwkv_cy.checkpoint.checkpoint import Checkpoint, open_source
from rwkv_cy.errors import ConfigError, TokenError
from rwkv_cy.runtime import get_num_threads, set_num_threads
from rwkv_cy.storage import open_model
from rwkv_cy.toolkit.calibration import Calibration, calibrate
from rwkv_cy.toolkit.divergence import divergence
from rwkv_cy.toolkit.verify import verify

TEXT = (Path(__file__).parents[2] / "data" / "kjv-heldout.txt").read_bytes()


@pytest.fixture(scope="module")
def calibration(kjv_checkpoint: Path) -> Calibration:
    return calibrate(kjv_checkpoint, TEXT[:20_000])


def test_the_divergence_on_another_text_is_smaller(
    tmp_path: Path, kjv_checkpoint: Path, calibration: Calibration
) -> None:
    quantize(kjv_checkpoint, tmp_path / "plain.h5", "q4n")
    quantize(kjv_checkpoint, tmp_path / "calibrated.h5", "q4n", calibrate=calibration)
    with load(kjv_checkpoint, dtype="f32") as reference:
        kl = {}
        for name in ("plain", "calibrated"):
            with load(tmp_path / f"{name}.h5") as model:
                kl[name] = divergence(reference, model, TEXT[60_000:70_000]).kl
    assert 0 < kl["calibrated"] < 0.9 * kl["plain"]


def test_any_number_of_threads_gives_the_same(tmp_path: Path, kjv_checkpoint: Path) -> None:
    results = [calibrate(kjv_checkpoint, TEXT[:700], num_threads=threads) for threads in (1, 2, 3)]
    for name, inputs in results[0].inputs.items():
        assert all(other.inputs[name].rows.tobytes() == inputs.rows.tobytes() for other in results[1:])
    assert len({result.sha256 for result in results}) == 1
    before, files = get_num_threads(), set()
    try:
        for threads in (1, 3):
            set_num_threads(threads)
            quantize(kjv_checkpoint, tmp_path / f"{threads}.h5", "q4n", calibrate=results[0])
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


def test_text_and_calibration_give_the_same_file(tmp_path: Path, kjv_checkpoint: Path) -> None:
    quantize(kjv_checkpoint, tmp_path / "one.h5", "q4", calibrate=TEXT[:500])
    quantize(kjv_checkpoint, tmp_path / "two.h5", "q4", calibrate=calibrate(kjv_checkpoint, TEXT[:500]))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


@pytest.mark.parametrize("dtype", ["q4n", "q6"])
def test_the_file_says_so_and_is_verified(
    tmp_path: Path, kjv_checkpoint: Path, calibration: Calibration, dtype: str
) -> None:
    path = tmp_path / "model.h5"
    quantize(kjv_checkpoint, path, dtype, calibrate=calibration)
    with open_model(path) as file:
        assert file.header.source["calibration"] == f"20000 tokens, sha256 {calibration.sha256}"
    check = verify(path, against=kjv_checkpoint)
    assert check.ok
    assert check.against is not None
    assert check.against.within == 43


def test_another_matrix_is_noticed_in_a_calibrated_file(tmp_path: Path, kjv_checkpoint: Path) -> None:
    path, other = tmp_path / "model.h5", tmp_path / "other.pth"
    quantize(kjv_checkpoint, path, "q4n", calibrate=TEXT[:500])
    data = kjv_checkpoint.read_bytes()
    with open_source(kjv_checkpoint) as source:
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
