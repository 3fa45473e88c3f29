"""Files that the gguf package writes, with tensors of every type that it can quantize, read back bit for bit."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from formats.foreign import Array, rwkv7_parameters
from formats.make_gguf import rwkv7_tensors
from formats.sources import read_all
from rwkv_cy.checkpoint.tokenizer_choice import named_tokenizer
from rwkv_cy.files.vocabulary_files import packaged_vocabulary
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.formats.gguf.vocabulary import escaped, read_vocabulary
from rwkv_cy.text.tokenizers import WorldTokenizer

gguf = pytest.importorskip("gguf")

pytestmark = pytest.mark.oracle

PARAMETERS = rwkv7_parameters()


def write(path: Path, kinds: dict[str, str]) -> dict[str, Array]:
    """Write the model with these types of its tensors, others being float32; return the numbers in them."""
    writer = gguf.GGUFWriter(path, "rwkv7")
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(16)
    writer.add_decay_lora_rank(3)
    writer.add_iclr_lora_rank(4)
    writer.add_value_residual_mix_lora_rank(5)
    writer.add_gate_lora_rank(6)
    writer.add_feed_forward_length(128)
    writer.add_head_count(0)
    writer.add_tokenizer_model("rwkv")
    words = [bytes([byte, byte ^ 85]) for byte in range(5)]
    writer.add_token_list([b"<s>", *(repr(word)[2:-1].encode() for word in words)])
    writer.add_token_types([3] + [1] * 5)
    numbers = {}
    for tensor in rwkv7_tensors(PARAMETERS):
        name = str(tensor.name)
        array = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
        kind = gguf.GGMLQuantizationType[kinds.get(name, "F32")]
        raw = gguf.quants.quantize(array, kind)
        numbers[name] = gguf.quants.dequantize(raw, kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_what_gguf_writes(tmp_path: Path, kind: str) -> None:
    matrices = {str(t.name): kind for t in rwkv7_tensors(PARAMETERS) if len(t.shape) == 2 and t.shape[-1] % 32 == 0}
    numbers = write(tmp_path / "a.gguf", matrices)
    found = read_all(open_checkpoint(tmp_path / "a.gguf"))
    stored = {"F32": "f32", "F16": "f16", "BF16": "bf16"}.get(kind, "f32")
    for ours, theirs in (
        ("emb.weight", "token_embd.weight"),
        ("blocks.1.att.output.weight", "blk.1.time_mix_output.weight"),
        ("blocks.1.ffn.value.weight", "blk.1.channel_mix_value.weight"),
    ):
        dtype, array = found[ours]
        assert dtype == stored
        if dtype == "bf16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        assert array.astype(np.float32).tobytes() == numbers[theirs].tobytes()
    for name, array in PARAMETERS.items():
        if array.ndim != 2 and not name.startswith("blocks.0.att.v"):
            assert found[name][1].tobytes() == array.tobytes()
    assert read_vocabulary(tmp_path / "a.gguf") == [b"", *(bytes([byte, byte ^ 85]) for byte in range(5))]


def test_a_vocabulary_with_every_byte(tmp_path: Path) -> None:
    """The order of bytes, escapes and quotes is that of repr, whatever the token."""
    tokens = [bytes(pair) for pair in zip(range(256), range(255, -1, -1), strict=True)] + [b"'", b'"', b"'\"", b"\\x41"]
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "rwkv7")
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list([b"<s>", *(repr(token)[2:-1].encode() for token in tokens)])
    writer.add_token_types([3] + [1] * len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_vocabulary(tmp_path / "v.gguf") == [b"", *tokens]


def test_the_world_vocabulary(tmp_path: Path) -> None:
    """All 65,536 ids have the bytes of the published file, also where that writes them otherwise than GGUF files do."""
    published = WorldTokenizer.from_text(packaged_vocabulary().read_bytes())
    tokens, kinds = [b"<s>"], [3]
    for line in packaged_vocabulary().read_text("utf-8").splitlines():
        token = ast.literal_eval(line[line.index(" ") + 1 : line.rindex(" ")])
        raw = token.encode() if isinstance(token, str) else token
        tokens.append(repr(raw)[2:-1].encode())
        kinds.append(1)
    tokens += [f"[PAD{number}]".encode() for number in range(len(tokens), 65_536)]
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "rwkv7")
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds + [5] * (65_536 - len(kinds)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = named_tokenizer(tmp_path / "v.gguf")
    assert found.to_bytes() == published.to_bytes()
    assert (found.kind, found.vocab_size, found.end_of_text) == ("world", 65_536, 0)
    for number in range(65_536):
        assert found.decode_bytes([number]) == published.decode_bytes([number])
        assert escaped(found.decode_bytes([number])) == (tokens[number] if kinds[number : number + 1] == [1] else b"")
    text = "Der Fluß — 川 \\x41 'a' \"b\"\r\n\t" + "".join(map(chr, range(0x20, 0x2000)))
    assert found.encode(text) == published.encode(text)
    assert found.decode(found.encode(text)) == text
