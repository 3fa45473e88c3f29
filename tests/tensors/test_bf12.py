"""bf12 from checkpoint to logits: same numbers as bf16, and errors for damage."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from checkpoints import small_parameters, write_safetensors, write_small
from rwkv_cy import load
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.checkpoint.checkpoint import open_source
from rwkv_cy.checkpoint.fingerprint import fingerprint
from rwkv_cy.checkpoint.memory import MemorySource
from rwkv_cy.config import Config
from rwkv_cy.dtypes import array_dtype, f32_to_bf16
from rwkv_cy.errors import FormatError, SpecError, StorageError
from rwkv_cy.kernels.bf12 import group_nbytes
from rwkv_cy.kernels.packed import packed_nbytes
from rwkv_cy.storage import open_model
from rwkv_cy.storage.checked_file import CheckedFile
from rwkv_cy.storage.schema import MODEL_KIND
from rwkv_cy.tensors.codecs.bf12 import BF12Plan
from rwkv_cy.tensors.converter import Converter
from rwkv_cy.tensors.policy import Target, choose
from rwkv_cy.tensors.reading import check_stored, number_type, read_blocks
from rwkv_cy.tensors.tensor import Parameter, ParameterSource
from rwkv_cy.toolkit.convert import convert, plan_conversion
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.verify import verify
from storage.small import forge

pytestmark = pytest.mark.usefixtures("structure_checked_here")

#: The head has a row for each of 512 tokens: as many weights as there are bfloat16 numbers.
CONFIG = Config(d_model=128, num_layers=1, vocab_size=512)
KEY, HEAD = "blocks.0.ffn.key.weight", "head.weight"
#: What arithmetic would lose: a signalling NaN, a NaN with all bits, infinities, the least numbers, both zeros.
ODD = [0x7F81, 0xFFFF, 0x7F80, 0xFF80, 0x0001, 0x8001, 0x8000, 0x0000]


def parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {
        spec.name: f32_to_bf16((rng.standard_normal(spec.shape) / 8).astype(np.float32))
        for spec in ARCHITECTURES["rwkv4"].parameters(CONFIG)
    }
    found[HEAD] = rng.permutation(1 << 16).astype(np.uint16).reshape(512, 128)
    found[KEY].reshape(-1)[rng.choice(512 * 128, len(ODD), replace=False)] = ODD
    return found


def stored(path: Path) -> dict[str, tuple[str, bytes]]:
    """The parameters of a model file: type and bytes."""
    with open_model(path) as model:
        found = {}
        for name in model.names():
            info = model.info(name)
            array = np.empty(info.nbytes, np.uint8).view(array_dtype(info.dtype))
            model.read_into(name, array)
            if info.transposed:
                array = array.reshape(info.array_shape).T
            found[name] = (info.dtype, array.tobytes())
        return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "s", parameters())


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    convert(source, tmp_path / "m.h5", dtype="bf12")
    return tmp_path / "m.h5"


def test_there_and_back(model: Path, tmp_path: Path) -> None:
    packed = {name for name, (dtype, _) in stored(model).items() if dtype == "bf12"}
    matrices = {spec.name for spec in ARCHITECTURES["rwkv4"].parameters(CONFIG) if spec.quantizable}
    assert packed == matrices - {HEAD, "blocks.0.ffn.value.weight"}
    with open_model(model) as opened:
        assert opened.info("blocks.0.ffn.value.weight").transposed
    assert set(load(model, dtype="bf12").parameters) == set(stored(model))
    assert load(model, dtype="bf12").parameters["blocks.0.ffn.value.weight"].transposed
    convert(model, tmp_path / "back.h5", dtype="bf16")
    for name, (dtype, raw) in stored(tmp_path / "back.h5").items():
        assert (dtype, raw) == ("bf16", parameters()[name].tobytes()), name


def test_what_is_not_a_number_is_counted_as_in_bf16(source: Path, tmp_path: Path) -> None:
    found = [convert(source, tmp_path / dtype, dtype=dtype) for dtype in ("bf16", "bf12")]
    assert found[0].nonfinite == found[1].nonfinite
    assert found[0].nonfinite.keys() == {KEY, HEAD}
    assert found[0].fingerprint == found[1].fingerprint
    for dtype in ("bf16", "bf12"):
        assert len(verify(tmp_path / dtype).problems) == 2


@pytest.mark.parametrize("dtype", ["f32", "f16", "q8", "bf12"])
def test_to_other_types_it_is_as_bf16(kjv_checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    for own in ("bf16", "bf12"):
        convert(kjv_checkpoint, tmp_path / own, dtype=own)
        convert(tmp_path / own, tmp_path / f"{own}-again", dtype=dtype)
    assert stored(tmp_path / "bf12-again") == stored(tmp_path / "bf16-again")


def test_kept_it_is_the_same_bytes(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "kept.h5")
    assert stored(tmp_path / "kept.h5") == stored(model)


@pytest.mark.parametrize("own", ["f32", "q8"])
def test_from_other_types_it_is_as_bf16(kjv_checkpoint: Path, tmp_path: Path, own: str) -> None:
    convert(kjv_checkpoint, tmp_path / own, dtype=own)
    for dtype in ("bf16", "bf12"):
        convert(tmp_path / own, tmp_path / dtype, dtype=dtype)
    convert(tmp_path / "bf12", tmp_path / "back", dtype="bf16")
    assert stored(tmp_path / "back") == stored(tmp_path / "bf16")
    assert stored(tmp_path / "bf12")[HEAD][0] == "bf12"


def test_logits_are_those_of_bf16(kjv_checkpoint: Path, tmp_path: Path) -> None:
    report = convert(kjv_checkpoint, tmp_path / "m.h5", dtype="bf12")
    assert report.size < convert(kjv_checkpoint, tmp_path / "plain.h5", dtype="bf16").size
    plain, text = load(kjv_checkpoint, dtype="bf16"), list(b"In the beginning God created the heaven and the earth.")
    expected, state = plain.forward(text, all_logits=True)
    for packed in (
        load(tmp_path / "m.h5"),
        load(tmp_path / "m.h5", mmap=False),
        load(kjv_checkpoint, dtype="bf12"),
    ):
        assert packed.parameters[HEAD].dtype == "bf12"
        assert packed.parameters["emb.weight"].dtype == packed.parameters["ln_out.weight"].dtype == "bf16"
        assert packed.fingerprint == plain.fingerprint
        logits, after = packed.forward(text, all_logits=True)
        assert logits.tobytes() == expected.tobytes()
        assert after == state
        one_by_one = None
        for token in text:
            _, one_by_one = packed.forward(token, one_by_one)
        assert one_by_one == state
    wide, exact = (load(path, dtype="f64") for path in (tmp_path / "m.h5", kjv_checkpoint))
    assert wide.forward([72, 101])[0].tobytes() == exact.forward([72, 101])[0].tobytes()
    unpacked = load(tmp_path / "m.h5", dtype="bf16")
    assert unpacked.forward([72, 101])[0].tobytes() == plain.forward([72, 101])[0].tobytes()


def test_in_memory_what_does_not_pay_stays_bf16(source: Path) -> None:
    found = load(source, dtype="bf12").parameters
    assert (found[KEY].dtype, found[KEY].shape) == ("bf12", (512, 128))
    assert (found[HEAD].dtype, found[HEAD].array.tobytes()) == ("bf16", parameters()[HEAD].tobytes())


def test_small_matrices_are_left_alone(tmp_path: Path) -> None:
    report = convert(write_small(tmp_path / "s"), tmp_path / "m", dtype="bf12")
    assert {tensor.dtype for tensor in report.plan.tensors if tensor.kind != "vector"} == {"bf16"}


def test_a_plan_knows_the_size(source: Path, model: Path, tmp_path: Path) -> None:
    plan = plan_conversion(source, tmp_path / "other.h5", "bf12")
    assert json.loads(json.dumps(plan.to_dict()))["tensors"]
    report = inspect(model, stats=True)
    assert report.bytes_in_memory == plan.nbytes
    assert report.dtypes == {
        tensor.dtype: sum(t.dtype == tensor.dtype for t in plan.tensors) for tensor in plan.tensors
    }
    (key,) = (tensor for tensor in report.tensors if tensor.name == KEY)
    assert key.statistics is not None
    assert (key.statistics.nan, key.statistics.inf, key.statistics.zeros) == (2, 2, 2)


def target_of(source: ParameterSource, name: str) -> Target:
    (spec,) = (spec for spec in ARCHITECTURES["rwkv4"].parameters(CONFIG) if spec.name == name)
    return choose(source, spec, "bf12")


def test_the_bytes_do_not_depend_on_how_they_are_requested(source: Path, model: Path) -> None:
    with open_source(source) as opened:
        target = target_of(opened, KEY)
        assert isinstance(target.plan, BF12Plan)
        assert target.plan.escapes >= len(ODD)
        nbytes = target.info.nbytes
        for step in (1 << 30, 4096, 777):
            converter, result = Converter(opened), np.empty(nbytes, np.uint8)
            for start in range(0, nbytes, step):
                converter.fill(target, result[start : start + step], start)
            assert result.tobytes() == stored(model)[KEY][1]


def test_a_source_that_changes_is_an_error(source: Path) -> None:
    own = {name: Parameter(array, "bf16") for name, array in parameters().items()}
    changing = MemorySource(CONFIG, own)
    target = target_of(changing, KEY)
    own[KEY].array[0] = 0
    with pytest.raises(StorageError, match=r"expected \d+ escapes, got \d+; it changed while it was read: convert"):
        Converter(changing).fill(target, np.empty(target.info.nbytes, np.uint8), 0)


def test_a_matrix_too_wide_is_left_alone() -> None:
    wide = np.zeros((2, (1 << 16) + 1), np.uint16)
    source = MemorySource(
        CONFIG, {**{n: Parameter(a, "bf16") for n, a in parameters().items()}, HEAD: Parameter(wide, "bf16")}
    )
    assert target_of(source, HEAD) == Target(source.info(HEAD))


def test_a_model_in_memory_has_a_fingerprint(model: Path) -> None:
    loaded = load(model)
    source = MemorySource(loaded.config, loaded.parameters)
    assert len(fingerprint(source)) == 32
    info = source.info(KEY)
    assert number_type(info) == "bf16"
    assert np.concatenate(list(read_blocks(source, info, 1000))).tobytes() == parameters()[KEY].tobytes()


#: Where the lists of the key's rows begin, in its bytes.
LISTS = 64 + 512 // 4 * group_nbytes(128)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, 0, "expected sixteen exponents in ascending order, got"),
        (18, 1, r"expected \d+ bytes for \d+ escapes, got \d+"),
        (LISTS, 1, r"expected lists of \d+ escapes one after the other"),
        (LISTS + 3, 0xFF, r"expected lists of \d+ escapes one after the other"),
        (LISTS + 4 * 200 + 2, 1, r"expected lists of \d+ escapes one after the other"),
        (LISTS + 4 * 512 + 1, 0x7F, r"expected lists of \d+ escapes one after the other"),
        (LISTS + 4 * 513, 200, "expected escapes in the order of their columns, below 128"),
    ],
)
def test_bytes_that_no_writer_wrote(model: Path, tmp_path: Path, place: int, value: int, message: str) -> None:
    """With checksums that fit."""
    with CheckedFile(model, MODEL_KIND) as checked:
        entry = checked.entries["parameters/blocks.0/ffn.key.weight"]
    assert entry.spec.nbytes > packed_nbytes((512, 128), 0)
    content = bytearray(model.read_bytes())
    content[entry.offset + place] = value
    model.write_bytes(content)
    raw = bytes(content[entry.offset : entry.offset + entry.spec.nbytes])
    old, new = (b'"crc32":%d}' % crc for crc in (entry.crc32, zlib.crc32(raw)))
    forge(model, lambda index: index.replace(old, new))
    where = rf"{KEY}: (bf12: )?{message}.*; convert the model again"
    for mmap in (True, False):
        with pytest.raises(FormatError, match=where):
            load(model, mmap=mmap)
    with pytest.raises(FormatError, match=where):
        convert(model, tmp_path / "back.h5", dtype="bf16")
    assert any(message.split(",")[0].split("\\")[0] in problem for problem in verify(model).problems)
    with open_model(model) as opened, pytest.raises(FormatError, match=where):
        check_stored(opened, opened.info(KEY))


def write_escapes(path: Path, escapes: int) -> Path:
    """A model with a key of sixteen exponents, but for so many weights of another one."""
    words = (0x70 + np.arange(512 * 128) % 16 << 7).astype(np.uint16)
    words[:escapes] = 0x60 << 7
    return write_safetensors(path, {**parameters(), KEY: words.reshape(512, 128)})


@pytest.mark.parametrize(("escapes", "dtype"), [(32, "bf12"), (33, "bf16")])
def test_a_matrix_with_many_escapes_is_left_alone(tmp_path: Path, escapes: int, dtype: str) -> None:
    convert(write_escapes(tmp_path / "s", escapes), tmp_path / "m", dtype="bf12")
    assert stored(tmp_path / "m")[KEY][0] == dtype
    load(tmp_path / "m")


@pytest.mark.parametrize("escapes", [33, 3000])
def test_more_escapes_than_pay_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, escapes: int) -> None:
    """By a writer that does not mind, and with checksums that fit."""
    with monkeypatch.context() as patch:
        patch.setattr("rwkv_cy.kernels.packed.max_escapes", lambda shape: 1 << 16)
        convert(write_escapes(tmp_path / "s", escapes), tmp_path / "m", dtype="bf12")
    message = f"{KEY}: expected at most 32 escapes, one for 2,048 weights, got {escapes}; convert the model again"
    for mmap in (True, False):
        with pytest.raises(FormatError, match=message):
            load(tmp_path / "m", mmap=mmap)
    with pytest.raises(FormatError, match=message):
        convert(tmp_path / "m", tmp_path / "back", dtype="bf16")
    assert any(message in problem for problem in verify(tmp_path / "m").problems)


def test_lists_are_checked_part_by_part(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkv_cy.tensors.codecs.bf12._CHECKED_ROWS", 100)
    with open_model(model) as opened:
        check_stored(opened, opened.info(KEY))


def test_dtypes_of_a_float32_source(tmp_path: Path) -> None:
    """The embedding is what bf16 makes of it; vectors stay."""
    report = convert(write_safetensors(tmp_path / "s", small_parameters()), tmp_path / "m", dtype="bf12")
    found = {tensor.kind: tensor.dtype for tensor in report.plan.tensors}
    assert found == {"matrix": "bf16", "embedding": "bf16", "head": "bf16", "vector": "f32"}


def test_bytes_of_a_packed_matrix_come_in_their_order(source: Path) -> None:
    with open_source(source) as opened:
        target, converter = target_of(opened, KEY), Converter(opened)
        part = np.zeros(64, np.uint8)
        message = f"{KEY}: expected requests for its bytes in ascending order, got one from {{}}"
        with pytest.raises(SpecError, match=message.format(64)):
            converter.fill(target, part, 64)
        converter.fill(target, part, 0)
        assert part.any()
        with pytest.raises(SpecError, match=message.format(128)):
            converter.fill(target, part, 128)
