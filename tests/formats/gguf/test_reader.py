"""Models in GGUF files: names, shapes and numbers, split files, and metadata that contradicts the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bits import flips, sampled, with_flip
from formats.foreign import open_files, rwkv7_parameters
from formats.ggml.test_blocks import SIZES, decoded, random_blocks
from formats.make_gguf import TENSOR_TYPES, Gguf, Tensor, rwkv7_gguf, rwkv7_tensors, rwkv7_values, value, world_like
from formats.sources import read_all
from rwkv_cy.errors import FormatError, RWKVError, StorageError, UnsupportedError
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.ggml import source as ggml_source
from rwkv_cy.formats.gguf.reader import open_gguf
from rwkv_cy.formats.metadata import LAYER_NORM_EPSILON

PARAMETERS = rwkv7_parameters()
#: Files have others in their place, which have no use.
UNUSED = {f"blocks.0.att.v{n}" for n in "012"}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def file(**changed: bytes | None) -> bytes:
    return Gguf(rwkv7_values(PARAMETERS, **changed), rwkv7_tensors(PARAMETERS)).to_bytes()


def test_a_model(tmp_path: Path) -> None:
    path = write(tmp_path / "a", rwkv7_gguf(PARAMETERS))
    with open_checkpoint(path) as source:
        assert source.format == "gguf"
        assert source.metadata["general.architecture"] == "rwkv7"
        assert source.metadata[LAYER_NORM_EPSILON] == "1e-05"
        assert "tokenizer_path" not in source.metadata
    found = read_all(open_checkpoint(path))
    assert set(found) == set(PARAMETERS) - UNUSED
    for name, (dtype, array) in found.items():
        assert dtype == "f32"
        assert array.shape == PARAMETERS[name].shape
        assert array.tobytes() == PARAMETERS[name].tobytes()


def test_matrices_are_views_of_the_file(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path / "a", rwkv7_gguf(PARAMETERS))) as source:
        for name, array in PARAMETERS.items():
            if name.endswith(".weight") and array.ndim == 2:
                assert source.view(name) is not None, name


def test_a_file_with_a_vocabulary_names_itself(tmp_path: Path) -> None:
    values = [("tokenizer_path", value("string", "/etc/passwd")), *rwkv7_values(PARAMETERS)]
    with open_gguf(write(tmp_path / "a", Gguf(values, rwkv7_tensors(PARAMETERS)).to_bytes())) as source:
        assert "tokenizer_path" not in source.metadata
    values += world_like([b"a"], 6)
    with open_gguf(write(tmp_path / "b", Gguf(values, rwkv7_tensors(PARAMETERS)).to_bytes())) as source:
        assert source.metadata["tokenizer_path"] == str(tmp_path / "b")


@pytest.mark.parametrize("kind", SIZES)
def test_blocks_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(ggml_source, "_DECODED_AT_ONCE", 96)
    size = SIZES[kind][0]
    blocks = random_blocks(kind, 6, 3)
    expected = decoded(kind, blocks).reshape(-1)
    name = "blk.1.channel_mix_key.weight"
    tensors = [t for t in rwkv7_tensors(PARAMETERS) if t.name != name]
    tensors.append(Tensor(name, (3, 2 * size), blocks.tobytes(), TENSOR_TYPES[kind]))
    with open_gguf(write(tmp_path / "a", Gguf(rwkv7_values(PARAMETERS), tensors).to_bytes())) as source:
        info = source.info(name)
        assert (info.dtype, info.source_dtype, info.shape) == ("f32", kind, (3, 2 * size))
        assert source.view(name) is None
        for start, count in ((0, expected.size), (size - 1, 2), (5, 4 * size), (expected.size - 1, 1), (7, 0)):
            buffer = np.full(count, np.nan, np.float32)
            source.read_into(name, buffer, start)
            assert buffer.tobytes() == expected[start : start + count].tobytes()


# --- metadata and tensors ---

CONTRADICTIONS: dict[str, tuple[dict[str, bytes | None], str]] = {
    "width": (
        {"rwkv7_embedding_length": value("uint32", 64)},
        "rwkv7.embedding_length: expected 32, as the tensors have, got 64",
    ),
    "layers": ({"rwkv7_block_count": value("uint32", 3)}, "rwkv7.block_count: expected 2, as the tensors have, got 3"),
    "hidden width": ({"rwkv7_feed_forward_length": value("uint32", 1)}, "feed_forward_length: expected 128"),
    "rank": (
        {"rwkv7_attention_gate_lora_rank": value("uint32", 5)},
        "gate_lora_rank: expected 6, as the tensors have, got 5",
    ),
    "rank of layer 1": ({"rwkv7_attention_value_residual_mix_lora_rank": value("uint32", 4)}, "expected 5"),
    "a text": ({"rwkv7_block_count": value("string", "2")}, "block_count: expected an integer from 0 up, got 2"),
    "a negative number": ({"rwkv7_block_count": value("int32", -2)}, "expected an integer from 0 up, got -2"),
    "heads of no size": ({"rwkv7_wkv_head_size": value("uint32", 0)}, "wkv.head_size: expected 1 or more, got 0"),
    "no size of heads": ({"rwkv7_wkv_head_size": None}, "rwkv7.wkv.head_size: expected an integer from 0 up, got none"),
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_metadata_that_contradicts_the_tensors(tmp_path: Path, what: str) -> None:
    changed, message = CONTRADICTIONS[what]
    with pytest.raises(FormatError) as error:
        open_checkpoint(write(tmp_path / "a", file(**changed)))
    assert message in str(error.value)
    assert not open_files(tmp_path)


def test_dimensions_that_are_not_stated_are_those_of_the_tensors(tmp_path: Path) -> None:
    left_out: dict[str, Any] = dict.fromkeys(("rwkv7_embedding_length", "rwkv7_attention_iclr_lora_rank"))
    assert len(read_all(open_checkpoint(write(tmp_path / "a", file(**left_out))))) == len(PARAMETERS) - 3


@pytest.mark.parametrize(
    ("key", "raw", "message"),
    [
        ("general_architecture", None, "general.architecture: expected one of rwkv6, rwkv7, got none"),
        ("general_architecture", value("string", "llama"), "got 'llama', which is not RWKV; run it with llama.cpp"),
        ("general_architecture", value("string", "arwkv7"), "got arwkv7: ARWKV-7, which puts the time mix"),
        ("general_architecture", value("uint32", 7), "got '7', which is not RWKV"),
        ("general_architecture", value("string[]", ["rwkv7"]), "got 'an array of 1 of type string', which is not RWKV"),
    ],
)
def test_other_models_are_named(tmp_path: Path, key: str, raw: bytes | None, message: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        open_checkpoint(write(tmp_path / "a", file(**{key: raw})))
    assert message in str(error.value)


def test_an_adapter_is_named(tmp_path: Path) -> None:
    values = [*rwkv7_values(PARAMETERS), ("general.type", value("string", "adapter"))]
    with pytest.raises(UnsupportedError, match="expected a GGUF file of a model, got one of type 'adapter'"):
        open_checkpoint(write(tmp_path / "a", Gguf(values, rwkv7_tensors(PARAMETERS)).to_bytes()))


def test_a_tensor_beyond_the_end(tmp_path: Path) -> None:
    data = rwkv7_gguf(PARAMETERS)
    with pytest.raises(FormatError, match="the file is cut short or damaged: download or copy it again"):
        open_checkpoint(write(tmp_path / "a", data[:-100]))


@sampled
def test_every_bit_of_the_header(tmp_path: Path, step: int) -> None:
    """Each flip is an error of the package, or another model that can be read; nothing else, and nothing hangs."""
    parameters = rwkv7_parameters(2, (1, 2), 1)
    values = [*rwkv7_values(parameters)[:1], *rwkv7_values(parameters)[5:6], *world_like([b"a"], 2)]
    tensors = [t for t in rwkv7_tensors(parameters) if "time_mix_w" in str(t.name) or "token_embd." in str(t.name)]
    data = Gguf(values, tensors).to_bytes()
    end = data.index(tensors[0].data)
    path = tmp_path / "a"
    accepted, refused = 0, 0
    for position, mask in flips(end, step):
        path.write_bytes(with_flip(data, position, mask))
        try:
            read_all(open_checkpoint(path))
            accepted += 1
        except RWKVError:
            refused += 1
    assert not open_files(tmp_path)
    assert accepted > 0
    assert refused > 0


def test_trailing_bytes(tmp_path: Path) -> None:
    found = read_all(open_checkpoint(write(tmp_path / "a", rwkv7_gguf(PARAMETERS) + bytes(999))))
    assert len(found) == len(PARAMETERS) - len(UNUSED)


# --- split files ---


def split(folder: Path, counts: tuple[int, ...], **changed: Any) -> Path:
    """Write the model in parts of so many tensors each; `changed` replaces values of the last part."""
    tensors = rwkv7_tensors(PARAMETERS)
    counts = (*counts, len(tensors) - sum(counts))
    for number, count in enumerate(counts):
        split_values: dict[str, Any] = {"no": number, "count": len(counts)}
        if number == len(counts) - 1:
            split_values |= changed
        values = rwkv7_values(PARAMETERS) if number == 0 else []
        values += [(f"split.{key}", value("uint16", content)) for key, content in split_values.items()]
        values.append(("split.tensors.count", value("int32", len(tensors))))
        part = Gguf(values, tensors[:count]).to_bytes()
        (folder / f"model-{number + 1:05}-of-{len(counts):05}.gguf").write_bytes(part)
        tensors = tensors[count:] if number < len(counts) - 1 else []
    return folder / f"model-00001-of-{len(counts):05}.gguf"


@pytest.mark.parametrize("counts", [(10,), (0, 20), (5, 5, 30)])
def test_a_model_in_parts(tmp_path: Path, counts: tuple[int, ...]) -> None:
    whole = read_all(open_checkpoint(write(tmp_path / "a", rwkv7_gguf(PARAMETERS))))
    path = split(tmp_path, counts)
    with open_checkpoint(path) as source:
        assert len(source.files) == len(counts) + 1
    parts = read_all(open_checkpoint(path))
    assert {name: (dtype, array.tobytes()) for name, (dtype, array) in parts.items()} == {
        name: (dtype, array.tobytes()) for name, (dtype, array) in whole.items()
    }
    assert not open_files(tmp_path)


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    path = split(tmp_path, (10, 10))
    with pytest.raises(
        UnsupportedError, match=r"expected the first of 3 parts of a model, got part 1 \(counted from 0\)"
    ):
        open_checkpoint(split(tmp_path, (10, 10)).with_name("model-00002-of-00003.gguf").rename(tmp_path / "second"))
    with pytest.raises(StorageError, match=r"model-00002-of-00003\.gguf: cannot open it"):
        open_checkpoint(path)
    path = split(tmp_path, (10, 10), no=1)
    with pytest.raises(FormatError, match=r"-00003-of-00003\.gguf: expected part 2 of 3 .*, got part 1 of 3"):
        open_checkpoint(path)
    path = split(tmp_path, (10, 10))
    third = path.with_name("model-00003-of-00003.gguf")
    values: list[tuple[str | bytes, bytes]] = [("split.no", value("uint16", 2)), ("split.count", value("uint16", 3))]
    third.write_bytes(Gguf(values).to_bytes())
    with pytest.raises(FormatError, match=r"split\.tensors\.count: expected \d+ tensors in 3 parts, got 20"):
        open_checkpoint(path)
    third.write_bytes(Gguf(values, rwkv7_tensors(PARAMETERS)[:1]).to_bytes())
    with pytest.raises(FormatError, match=r"token_embd\.weight: expected it in one part, got it in model-00001"):
        open_checkpoint(path)
    with pytest.raises(UnsupportedError, match="give the parts the names of llama-gguf-split, or merge them"):
        open_checkpoint(path.rename(tmp_path / "first.gguf"))
    assert not open_files(tmp_path)
