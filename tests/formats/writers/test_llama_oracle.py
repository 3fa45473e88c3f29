"""GGUF exports run by llama.cpp itself, through llama-cpp-python: the logits of every token of a sequence.

These tests need a build of llama.cpp: ``pip install llama-cpp-python`` (0.3.36 was used).
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.layouts.test_gguf import converted6
from formats.make_gguf import Gguf, Tensor, value, world_like
from formats.sources import read_all
from formats.writers.gguf_models import CONFIGS, complete, parameters_of, write_source
from formats.writers.test_gguf import values_of
from rwkv_cy.dtypes import widen
from rwkv_cy.files.reading import FileBytes
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.ggml import BLOCK_TYPES
from rwkv_cy.formats.ggml.encode import ENCODERS, encode_blocks
from rwkv_cy.formats.ggml.encode_superblocks import SUPERBLOCK_ENCODERS
from rwkv_cy.formats.gguf.container import read_container
from rwkv_cy.formats.gguf.header import Array
from rwkv_cy.formats.writers.base import Vocabulary
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.toolkit.export import export

llama_cpp = pytest.importorskip("llama_cpp", reason="runs exports with llama.cpp: pip install llama-cpp-python")

llama_chat_format = pytest.importorskip("llama_cpp.llama_chat_format")

pytestmark = pytest.mark.oracle

TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 256, 60)]
#: Largest difference of a logit, relative to the largest logit. llama.cpp rounds the inputs of products to the type of
#: the weights (to q8_0 for quantized ones); in float32 both differ in the order of sums alone.
TOLERANCES = {"f32": 2e-6, "f16": 2e-3, "bf16": 1e-2, **dict.fromkeys((*ENCODERS, *SUPERBLOCK_ENCODERS), 0.1)}


def run(path: Path, tokens: list[int]) -> Any:
    """Return llama.cpp's logits after each token, (tokens, vocabulary)."""
    model = llama_cpp.Llama(str(path), n_ctx=128, n_batch=128, logits_all=True, verbose=False, n_threads=1)
    model.eval(tokens)
    logits = np.array(model.scores[: len(tokens)])
    model.close()
    return logits


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_llama_cpp_computes_the_same_logits(tmp_path: Path, name: str, dtype: str) -> None:
    export(write_source(tmp_path / "s", CONFIGS[name]), tmp_path / "t.gguf", dtype=dtype, tokenizer="bytes")
    expected, _ = load(tmp_path / "t.gguf").forward(TOKENS, all_logits=True)
    found = run(tmp_path / "t.gguf", TOKENS)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCES[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rescale", [0, 1, 2])
def test_files_of_llama_cpp_s_converter(tmp_path: Path, fused: bool, rescale: int) -> None:
    """RWKV-6 with its mixes fused or not, and with outputs that are divided by powers of two."""
    config = replace(CONFIGS["rwkv6, heads of 32"], num_layers=4)
    theirs = converted6(parameters_of(config), fused=fused, rescale=rescale)
    export(write_source(tmp_path / "s", config), tmp_path / "ours.gguf", tokenizer="bytes")
    with FileBytes(tmp_path / "ours.gguf") as file:
        stated = dict(read_container(file).values)
    values = [
        (key, value("float32" if isinstance(v, float) else "string" if isinstance(v, str) else "uint32", v))
        for key, v in stated.items()
        if not isinstance(v, Array)
    ]
    values += [("rwkv6.rescale_every_n_layers", value("uint32", rescale))]
    values = [pair for pair in values if not pair[0].startswith("tokenizer.")]
    values += world_like([bytes([byte]) for byte in range(256)], 300)
    tensors = [Tensor.of(name, np.ascontiguousarray(array)) for name, array in theirs.items()]
    (tmp_path / "theirs.gguf").write_bytes(Gguf(values, tensors).to_bytes())
    expected, _ = load(tmp_path / "theirs.gguf").forward(TOKENS, all_logits=True)
    original, _ = load(tmp_path / "s").forward(TOKENS, all_logits=True)
    np.testing.assert_array_equal(expected, original)
    # llama.cpp halves the residual stream as it goes, to which LayerNorm then adds the same epsilon.
    halving = LanguageModel(replace(complete(config), rescale_layer=rescale), parameters_of(config))
    expected, _ = halving.forward(TOKENS, all_logits=True)
    assert np.abs(run(tmp_path / "theirs.gguf", TOKENS) - expected).max() <= 2e-6 * np.abs(expected).max()


#: llama.cpp's numbers for mixes of types, which between them have all that are read.
MIXES = {
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K_M": 12,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
    "BF16": 32,
    "F16": 1,
}


def requantize(source: Path, target: Path, file_type: int) -> None:
    """What llama-quantize does."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.allow_requantize = file_type, 1, True
    names = (str(path).encode() for path in (source, target))
    assert llama_cpp.llama_model_quantize(*names, ctypes.byref(parameters)) == 0


@pytest.mark.parametrize("mix", MIXES)
def test_what_llama_cpp_quantizes(tmp_path: Path, mix: str) -> None:
    """Numbers read from a quantized file are those that llama.cpp decodes, to the last bit."""
    config = replace(CONFIGS["rwkv7, heads of 64"], d_model=256, d_att=256, d_ffn=512)
    export(write_source(tmp_path / "s", config), tmp_path / "f32.gguf", tokenizer="bytes")
    requantize(tmp_path / "f32.gguf", tmp_path / "mixed.gguf", MIXES[mix])
    requantize(tmp_path / "mixed.gguf", tmp_path / "decoded.gguf", 0)
    mixed, decoded = (read_all(open_checkpoint(tmp_path / f"{name}.gguf")) for name in ("mixed", "decoded"))
    assert mixed.keys() == decoded.keys()
    for name, (dtype, array) in mixed.items():
        assert decoded[name][0] == "f32"
        assert widen(array, dtype, "f32").tobytes() == decoded[name][1].tobytes(), name
    with FileBytes(tmp_path / "mixed.gguf") as file:
        types = {tensor.info.source_dtype for tensor in read_container(file).tensors.values()}
    assert mix.lower().removesuffix("_m") in types
    logits = [load(tmp_path / f"{name}.gguf", dtype="f32").forward(TOKENS)[0] for name in ("mixed", "decoded")]
    np.testing.assert_array_equal(*logits)


def test_another_model_gives_other_logits(tmp_path: Path) -> None:
    """The tolerance can be exceeded: one tensor that llama.cpp would miss shows."""
    source = write_source(tmp_path / "s", CONFIGS["rwkv7, heads of 64"])
    export(source, tmp_path / "t.gguf", tokenizer="bytes")
    other = load(source)
    expected, _ = other.forward([*TOKENS[:-1], TOKENS[-1] ^ 1], all_logits=True)
    found = run(tmp_path / "t.gguf", TOKENS)
    assert np.abs(found[:-1] - expected[:-1]).max() <= 2e-6 * np.abs(expected).max()
    assert np.abs(found[-1] - expected[-1]).max() > 1e-2 * np.abs(expected).max()


def test_llama_cpp_tokenizes_with_the_vocabulary(tmp_path: Path) -> None:
    source = write_source(tmp_path / "s", CONFIGS["rwkv7, heads of 64"])
    export(source, tmp_path / "t.gguf", tokenizer="bytes")
    model = llama_cpp.Llama(str(tmp_path / "t.gguf"), vocab_only=True, verbose=False)
    text = "a\\x41 \N{SNOWMAN}'\"\n".encode() + bytes(range(1, 256))
    assert model.tokenize(text, add_bos=False, special=False) == list(text)
    assert model.detokenize(list(text)) == text


def test_the_chat_template(tmp_path: Path) -> None:
    """As the authors' page of templates has it: turns end with an empty line, nothing follows the last colon."""
    words = [b"", *(bytes([byte]) for byte in range(256)), b"ab", b"cd", b"ef", b"gh", b"\n\n"]
    path = values_of(tmp_path, Vocabulary("world", b"", 0, lambda: words, lambda: b""))
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    formatter = llama_chat_format.Jinja2ChatFormatter(
        template=model.metadata["tokenizer.chat_template"], eos_token="", bos_token=""
    )
    turns = [("system", "Be brief."), ("user", " Hi \n"), ("assistant", "Hello."), ("user", "Why?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    prompt = "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Why?\n\nAssistant:"
    assert formatter(messages=messages).prompt == prompt
    assert llama_cpp.llama_vocab_eot(model._model.vocab) == 261


@pytest.mark.parametrize("kind", SUPERBLOCK_ENCODERS)
def test_errors_of_the_k_types_are_those_of_ggml(kind: str) -> None:
    """ggml adds the same numbers in another order: most blocks are equal, and the errors are."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base.*"))))
    quantize = getattr(library, f"quantize_row_{kind[:2]}_K_ref")
    rng = np.random.default_rng(6)
    for numbers in (rng.standard_normal((300, 256)), rng.standard_t(3, (300, 256)), rng.uniform(0, 1, (300, 256))):
        weights = (numbers * 0.02).astype(np.float32)
        weights[:3] = 0
        theirs = np.empty(len(weights), BLOCK_TYPES[kind].layout)
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (weights, theirs))
        quantize(*pointers, ctypes.c_int64(weights.size))
        ours = encode_blocks(kind, weights, "")
        errors = [np.square(BLOCK_TYPES[kind].decode(blocks) - weights).sum() for blocks in (ours, theirs)]
        assert errors[0] == pytest.approx(errors[1], rel=5e-3)
        assert np.mean([one.tobytes() == other.tobytes() for one, other in zip(ours, theirs, strict=True)]) > 0.8
