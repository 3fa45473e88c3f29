"""Files of rwkv.cpp against rwkv.cpp: its library runs our exports and quantizes as we do, and its script's files are
read to the last bit.

The environment variable ``RWKVCPP`` names a checkout of github.com/RWKV/rwkv.cpp with its submodules (4358e709 was
used), built by ``cmake -B build -DRWKV_STANDALONE=ON && cmake --build build``. The script needs torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.rwkvcpp import Library, Model, quantize
from checkpoints import write_safetensors
from formats.foreign import Array
from formats.sources import read_all
from formats.writers.rwkvcpp_models import CONFIGS, parameters_of, with_heads_of_32
from formats.writers.test_rwkvcpp import parse
from rwkv_cy.dtypes import to_storage
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.ggml.encode import ENCODERS
from rwkv_cy.model.language_model import load
from rwkv_cy.toolkit.export import export

CHECKOUT = Path(os.environ.get("RWKVCPP", ""))
LIBRARY = CHECKOUT / "build" / "librwkv.so"

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(not LIBRARY.is_file(), reason="RWKVCPP names no checkout of rwkv.cpp with build/librwkv.so"),
]

TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 256, 40)]
#: Largest difference of a logit, relative to the largest logit. rwkv.cpp rounds the inputs of products to the type of
#: the weights (8 bits for quantized ones); in float32 both differ in the order of sums alone.
TOLERANCES = {"f32": 2e-6, "f16": 2e-3, **dict.fromkeys(ENCODERS, 3e-2)}


def run(path: Path, tokens: list[int], part: int = 1) -> Array:
    """Return rwkv.cpp's logits after the last token."""
    with Model(Library(LIBRARY), path, 1, part) as model:
        return model.forward(tokens, None)[0]


def exported(tmp_path: Path, name: str, dtype: str = "f32", parameters: dict[str, Array] | None = None) -> Path:
    source = write_safetensors(tmp_path / "model.safetensors", parameters or parameters_of(CONFIGS[name]))
    export(source, tmp_path / "model.bin", dtype=dtype)
    return tmp_path / "model.bin"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_it_computes_what_we_compute_of_the_same_file(tmp_path: Path, name: str, dtype: str) -> None:
    path = exported(tmp_path, name, dtype)
    expected, _ = load(path).forward(TOKENS)
    found = run(path, TOKENS)
    assert np.abs(found - expected).max() <= TOLERANCES[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_computes_what_we_compute_of_the_original(tmp_path: Path, name: str) -> None:
    path = exported(tmp_path, name)
    expected, _ = load(tmp_path / "model.safetensors").forward(TOKENS)
    for part in (1, 8):
        found = run(path, TOKENS, part)
        assert np.abs(found - expected).max() <= TOLERANCES["f32"] * np.abs(expected).max()
    # The tolerance can be exceeded: by another last token.
    assert np.abs(run(path, [*TOKENS[:-1], TOKENS[-1] ^ 1]) - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_heads_of_another_size(tmp_path: Path, name: str) -> None:
    source = write_safetensors(tmp_path / "model.safetensors", parameters_of(with_heads_of_32(CONFIGS[name])))
    export(source, tmp_path / "model.bin", dtype="f32")
    expected, _ = load(source).forward(TOKENS)
    assert np.abs(run(tmp_path / "model.bin", TOKENS) - expected).max() <= TOLERANCES["f32"] * np.abs(expected).max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ENCODERS)
def test_it_quantizes_the_same_matrices_to_the_same_bits(
    tmp_path: Path, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    parameters = {key: to_storage(array, "f32", "f16") for key, array in parameters_of(CONFIGS[name]).items()}
    source = write_safetensors(tmp_path / "model.safetensors", parameters)
    export(source, tmp_path / "f16.bin", dtype="f16")
    export(source, tmp_path / "ours.bin", dtype=dtype)
    quantize(LIBRARY, tmp_path / "f16.bin", tmp_path / "theirs.bin", dtype.upper())
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()


def converted(tmp_path: Path, parameters: dict[str, Array], dtype: str) -> Path:
    """Return the file that rwkv.cpp's own script makes of a checkpoint of torch."""
    torch = pytest.importorskip("torch", reason="rwkv.cpp's script needs torch: pip install torch==2.13.0")
    torch.save({name: torch.from_numpy(array) for name, array in parameters.items()}, tmp_path / "model.pth")
    script = CHECKOUT / "python" / "convert_pytorch_to_ggml.py"
    command = [sys.executable, script, tmp_path / "model.pth", tmp_path / "theirs.bin", dtype]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return tmp_path / "theirs.bin"


def computed(name: str, key: str) -> bool:
    """Whether the script computes a tensor."""
    return (key.endswith(".time_decay") and name != "rwkv6") or (key.endswith(".time_faaaa") and name == "rwkv5.0")


def for_script(parameters: dict[str, Array], name: str) -> dict[str, Array]:
    """Return the checkpoint of which the script makes a file of a model: that of RWKV-5 is for other GroupNorms."""
    result = {}
    for key, array in parameters.items():
        if name.startswith("rwkv5") and key.endswith(".att.value.weight"):
            array = array / np.float32(8)
        if name == "rwkv5.0" and key.endswith(".time_faaaa"):  # under the older name, which the script needs
            key, array = key.replace("time_faaaa", "time_first"), np.log(array)
        result[key] = array
    return result


def with_a_bonus_above_0(name: str) -> dict[str, Array]:
    """Return the parameters of a model, of which the script can make a file."""
    return {
        key: np.exp(array) if name == "rwkv5.0" and key.endswith(".time_faaaa") else array
        for key, array in parameters_of(CONFIGS[name]).items()
    }


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["FP32", "FP16"])
def test_files_of_its_script_read_to_the_last_bit(tmp_path: Path, name: str, dtype: str) -> None:
    parameters = with_a_bonus_above_0(name)
    found = read_all(open_checkpoint(converted(tmp_path, for_script(parameters, name), dtype)))
    assert found.keys() == parameters.keys()
    for key, (stored, array) in found.items():
        expected = parameters[key]
        assert array.shape == expected.shape, key
        if computed(name, key):
            np.testing.assert_allclose(array, expected, rtol=0, atol=1e-4, err_msg=key)
        elif name.startswith("rwkv5") and key.endswith(".att.value.weight"):
            divided = (expected / np.float32(8)).astype("f2" if dtype == "FP16" else "f4")
            np.testing.assert_array_equal(array, divided.astype("f4") * 8, err_msg=key)
        else:
            assert array.tobytes() == to_storage(expected, "f32", stored).tobytes(), key
    narrow = {key for key, (stored, _) in found.items() if stored == "f16"}
    assert bool(narrow) == (dtype == "FP16")


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "rwkv5.1"])  # for which it writes no good file
@pytest.mark.parametrize("dtype", ["FP32", "FP16"])
def test_exports_have_the_tensors_of_its_script(tmp_path: Path, name: str, dtype: str) -> None:
    # It ends on what it does not use, and its script leaves it in.
    unused = {f"blocks.0.att.v{n}" for n in "012"}
    parameters = {key: array for key, array in with_a_bonus_above_0(name).items() if key not in unused}
    theirs_header, theirs = parse(converted(tmp_path, for_script(parameters, name), dtype))
    header, ours = parse(exported(tmp_path, name, dtype.replace("FP", "f"), parameters))
    assert header == theirs_header
    assert ours.keys() == theirs.keys()
    for key, entry in ours.items():
        if computed(name, key.replace("time_first", "time_faaaa")):  # by torch in float32
            assert (entry.sizes, entry.type) == (theirs[key].sizes, theirs[key].type)
            values = (np.frombuffer(some.data, "<f4") for some in (entry, theirs[key]))
            np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-7)
        else:
            assert entry == theirs[key], key
