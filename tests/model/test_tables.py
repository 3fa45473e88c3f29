"""Tables of tokens stay in the file: what loading and running reads of them, and what it holds in memory."""

from __future__ import annotations

import json
import math
import mmap
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import every_logits, tokens_for
from rwkv7_shapes import SMALL, SMALL_7A
from rwkv_cy.architectures import architecture_of
from rwkv_cy.config import Config
from rwkv_cy.errors import ConfigError, NotEnoughMemoryError, TokenError
from rwkv_cy.model import loading
from rwkv_cy.model.encoder import CHUNK_TOKENS, Model
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.toolkit.convert import convert
from rwkv_cy.toolkit.inspect import inspect

#: A model of 6 MB whose tables have 256 MB.
LARGE = replace(SMALL_7A["heads of 64"], vocab_size=1 << 15, num_layers=4)
LARGE = replace(LARGE, ranks={**LARGE.ranks, "s": 32})
TABLE_BYTES = LARGE.num_layers * LARGE.vocab_size * 1024 * 2
CONFIGS = {"7a": SMALL_7A["C 96 with heads of 32"], "rc00": replace(SMALL["odd ranks"], architecture="rwkv8_rc00")}


def tables_of(config: Config) -> list[str]:
    """Return the names of the tables of a model."""
    return [spec.name for spec in architecture_of(config).parameters(config) if spec.kind == "table"]


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> Config:
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sparse checkpoint of LARGE in bf16: only the first row of a table has numbers."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("large") / "large.safetensors"
    header, end = {}, 0
    specs = [spec for spec in architecture_of(LARGE).parameters(LARGE) if not spec.optional]
    for spec in specs:
        begin, end = end, end + 2 * math.prod(spec.shape)
        header[spec.name] = {"dtype": "BF16", "shape": spec.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec in specs:
            start = file.tell()
            size = math.prod(spec.shape)
            count = min(size, 1024) if spec.kind in ("table", "embedding", "head") else size
            numbers = rng.standard_normal(count, np.float32) * np.float32(0.1)
            file.write((numbers.view(np.uint32) >> 16).astype("<u2").tobytes())
            file.seek(start + 2 * size)
        file.truncate()
    return path


def grown(script: str, *arguments: object) -> tuple[int, int]:
    """Return by how many bytes anonymous and mapped memory of a process grow as it runs a script."""
    program = (
        "import sys\n"
        "from rwkv_cy.runtime import process_memory\n"
        "from rwkv_cy.model.language_model import load\n"
        "from rwkv_cy.toolkit.convert import convert\n"
        "peak = before = process_memory()\n"
        "def watch(*done):\n"
        "    global peak\n"
        "    peak = max(peak, process_memory())\n"
        f"{script}\n"
        "watch()\n"
        "print(peak[0] - before[0], peak[1] - before[1])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    own, mapped = map(int, run.stdout.split())
    return own, mapped


@pytest.mark.parametrize("dtype", [None, "f32", "q8"])
def test_only_rows_are_read(large: Path, dtype: str | None) -> None:
    script = "model = load(sys.argv[1], dtype=eval(sys.argv[2]))\nmodel.forward(list(range(0, 32000, 100)))"
    own, mapped = grown(script, large, repr(dtype))
    # Embedding and head are 32 MB in f32, 16 MB in bf16. 320 tokens read a page of each table, and nothing around it.
    pages = 320 * LARGE.num_layers
    assert own < 60e6
    assert mapped < 22e6 + 2 * pages * mmap.PAGESIZE < TABLE_BYTES / 4


def test_conversion_is_in_bounded_memory(large: Path, tmp_path: Path) -> None:
    own, _ = grown("convert(sys.argv[1], sys.argv[2], dtype='q8', progress=watch)", large, tmp_path / "m.h5")
    assert own < 40e6
    report = inspect(tmp_path / "m.h5")
    assert report.table_bytes == TABLE_BYTES
    assert report.bytes_in_memory == sum(tensor.nbytes for tensor in report.tensors) - TABLE_BYTES
    assert all(size < TABLE_BYTES / 4 for size in report.memory.values())
    model, original = load(tmp_path / "m.h5"), load(large, dtype="q8")
    tokens = [0, 17, 32767]
    assert model.forward(tokens)[0].tobytes() == original.forward(tokens)[0].tobytes()


@pytest.mark.parametrize("dtype", [None, "f64", "f16", "bf12", "q4"])
def test_a_table_keeps_its_type_and_its_place(tmp_path: Path, config: Config, dtype: str | None) -> None:
    parameters = random_checkpoint(config)
    checkpoint = write_safetensors(tmp_path / "model.safetensors", parameters)
    convert(checkpoint, tmp_path / "m.h5", dtype=dtype)
    for model in (load(checkpoint, dtype=dtype), load(tmp_path / "m.h5")):
        for name in tables_of(config):
            assert model.parameters[name].dtype == "f32"
            assert not model.parameters[name].array.flags.writeable  # it is mapped
            np.testing.assert_array_equal(model.parameters[name].array, parameters[name])


def test_read_into_memory_on_request(tmp_path: Path, config: Config) -> None:
    checkpoint = write_safetensors(tmp_path / "model.safetensors", random_checkpoint(config))
    mapped, resident = load(checkpoint), load(checkpoint, mmap=False)
    checkpoint.unlink()
    tokens = tokens_for(mapped, 20)
    assert every_logits(mapped, tokens)[0].tobytes() == every_logits(resident, tokens)[0].tobytes()
    assert all(resident.parameters[name].array.flags.writeable for name in tables_of(config))


def test_tables_that_would_not_fit_in_memory(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "available_memory", lambda: TABLE_BYTES)
    load(large, dtype="q8").close()
    with pytest.raises(NotEnoughMemoryError, match="not enough memory for parameters and states"):
        load(large, mmap=False)


def test_tokens_of_vectors(config: Config) -> None:
    """The encoder alone needs the tokens that its vectors stand for."""
    parameters = random_checkpoint(config)
    model, encoder = LanguageModel(config, parameters), Model(config, parameters)
    tokens = tokens_for(model, CHUNK_TOKENS + 9)
    xs = parameters["emb.weight"][tokens]
    ys, state = encoder.forward_sequence(xs, tokens=tokens)
    _, expected = model.forward(tokens)
    assert state.data.tobytes() == expected.data.tobytes()
    y, _ = encoder.forward_single(xs[0], token=tokens[0])
    assert y.tobytes() == ys[0].tobytes()
    other, _ = encoder.forward_single(xs[0], token=(tokens[0] + 1) % config.vocab_size)
    assert other.tobytes() != y.tobytes()
    empty, _ = encoder.forward_sequence(xs[:0])
    assert len(empty) == 0
    message = f"tokens: expected one for each of the 1 vectors, since {config.architecture} looks them up in tables"
    with pytest.raises(ConfigError, match=f"{message}, got none"):
        encoder.forward_single(xs[0])
    with pytest.raises(ConfigError, match=f"{message}, got 2"):
        encoder.forward_sequence(xs[:1], tokens=[1, 2])
    with pytest.raises(TokenError, match=r"tokens\[0\]: expected an id from 0 to"):
        encoder.forward_single(xs[0], token=config.vocab_size)


def test_a_layer_alone(config: Config) -> None:
    """The channel mix of a layer takes the tokens, and their embeddings if it uses them."""
    parameters = random_checkpoint(config)
    encoder = Model(config, parameters)
    rng = np.random.default_rng(0)
    xs, embedded = rng.standard_normal((2, 3, config.d_model)).astype(np.float32)
    mix, state = encoder.layers[0].channel_mix, encoder.initial_state()
    y = mix.forward(xs, state.layers[0], tokens=np.array([1, 2, 3]), embedded=embedded)
    assert (
        y.tobytes()
        != mix.forward(xs, encoder.initial_state().layers[0], tokens=np.array([3, 2, 1]), embedded=embedded).tobytes()
    )


def test_a_vocabulary_is_needed(config: Config) -> None:
    (name, *_) = tables_of(config)
    with pytest.raises(ConfigError, match=f"Config.vocab_size: expected the number of tokens, which {name[9:]} has"):
        Model.new(replace(config, vocab_size=0), 0)
