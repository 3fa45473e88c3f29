"""Files written by torch itself: both formats, every type, parameters, views, modules."""

from __future__ import annotations

import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formats.sources import read_all
from rwkv_cy.errors import UnsupportedError
from rwkv_cy.formats import open_checkpoint

torch = pytest.importorskip("torch", reason="compares with torch.save: pip install torch==2.13.0")
pytestmark = pytest.mark.oracle

TYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}
NEW, OLD, UNCHECKED = "zip", "legacy", "zip without checksums"


@pytest.fixture(params=[NEW, OLD, UNCHECKED])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """How torch.save is told to write."""
    checked = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(request.param != UNCHECKED)
    yield request.param
    torch.serialization.set_crc32_options(checked)


def save(value: Any, path: Path, way: str, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=way != OLD, **options)
    return path


def bits(tensor: Any) -> bytes:
    """The numbers of a tensor, C order, as they are in memory."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def assert_reads(path: Path, expected: dict[str, Any]) -> None:
    found = read_all(open_checkpoint(path))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        dtype, array = found[name]
        assert f"torch.{TYPES[dtype]}" == str(tensor.dtype)
        assert array.shape == tuple(tensor.shape)
        assert array.tobytes() == bits(tensor)


def every_type() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"{name}.{i}": torch.randn(shape, generator=generator).to(getattr(torch, full))
        for name, full in TYPES.items()
        for i, shape in enumerate([(), (1,), (5,), (3, 4), (1, 1, 7), (2, 3, 2)])
    }


def test_every_type_and_shape(tmp_path: Path, way: str) -> None:
    tensors = every_type()
    assert_reads(save(tensors, tmp_path / "x.pth", way), tensors)
    assert_reads(save(OrderedDict(tensors), tmp_path / "y.pth", way), tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, way: str, protocol: int) -> None:
    tensors = every_type()
    path = tmp_path / "x.pth"
    if way == OLD and protocol > 2:
        # Such a stream begins with other bytes, and is not used in practice.
        save(tensors, path, way, pickle_protocol=protocol)
        with pytest.raises(UnsupportedError, match="got a pickle that is not a PyTorch checkpoint"):
            open_checkpoint(path)
    else:
        assert_reads(save(tensors, path, way, pickle_protocol=protocol), tensors)


def test_parameters(tmp_path: Path, way: str) -> None:
    tensors = {name: torch.nn.Parameter(value) for name, value in every_type().items()}
    assert_reads(save(tensors, tmp_path / "x.pth", way), tensors)


def test_views_of_one_storage(tmp_path: Path, way: str) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    tensors = {"whole": whole, "rows": whole[2:5], "row": whole[1], "again": whole, "number": whole[5, 3]}
    assert_reads(save(tensors, tmp_path / "x.pth", way), tensors)


def test_state_of_a_module(tmp_path: Path, way: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5), torch.nn.Linear(5, 2, bias=False))
    state = module.state_dict()
    assert hasattr(state, "_metadata")
    assert_reads(save(state, tmp_path / "x.pth", way), state)
    for key in ("state_dict", "model"):
        assert_reads(save({"epoch": 3, "lr": 0.1, key: state}, tmp_path / "y.pth", way), state)


def test_more_tensors_than_one_batch_of_pickle(tmp_path: Path, way: str) -> None:
    tensors = {f"blocks.{i}.att.key.weight": torch.full((1,), float(i)) for i in range(2100)}
    assert_reads(save(tensors, tmp_path / "x.pth", way), tensors)


@pytest.mark.parametrize(
    "strange",
    [lambda w: w.T, lambda w: w[:, 1:], lambda w: w[0].expand(3, 4), lambda w: w[:, ::2]],
    ids=["transposed", "columns", "expanded", "every second"],
)
def test_strides(tmp_path: Path, way: str, strange: Any) -> None:
    tensors = {"w": strange(torch.arange(12.0).reshape(3, 4)), "bf16": strange(torch.ones(3, 4).bfloat16())}
    assert_reads(save(tensors, tmp_path / "x.pth", way), tensors)


def values_of_every_kind(way: str) -> dict[Any, Any]:
    """What torch.load(weights_only=True) reads beside tensors."""
    values: dict[Any, Any] = {"size": torch.Size([2, 3]), "device": torch.device("cuda:0"), "dtype": torch.bfloat16}
    values |= {"bytes": b"\xff\x00", "bytearray": bytearray(b"\xff"), "set": {1, "a"}, "complex": 1 + 2j}
    values |= {"counter": Counter("aab"), "layout": torch.strided, "scheme": torch.per_tensor_affine, "long": 1 << 1000}
    values |= {
        "shapes": [OrderedDict(a=torch.Size([3]))],
        "tuple": (1, (2.5, None, True)),
        (1, "k"): 1,
        2.5: 2,
        None: 3,
    }
    values |= {7: "seven", "rng": torch.get_rng_state()}
    if way != OLD:  # of which torch's safe mode cannot read a storage
        values["storage"] = torch.zeros(3).untyped_storage()
    return values


def test_values_beside_the_model(tmp_path: Path, way: str) -> None:
    tensors = {"blocks.0.att.key.weight": torch.ones(2, 3), "emb.weight": torch.ones(2)}
    for body in (
        {"module": tensors, **values_of_every_kind(way)},
        {**tensors, **{key: value for key, value in values_of_every_kind(way).items() if key != "rng"}},
        {"a": {"b": tensors, "optimizer": {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(3)}}}}},
    ):
        path = save(body, tmp_path / "x.pth", way)
        torch.load(path, weights_only=True)
        assert_reads(path, tensors)


def test_tensors_with_attributes_and_in_classes(tmp_path: Path, way: str) -> None:
    marked, parameter = torch.ones(2, 3), torch.nn.Parameter(torch.ones(4).bfloat16())
    marked.note = parameter.note = {"a": (1, 2)}
    tensors = {"w": marked, "p": parameter, "b": torch.nn.Buffer(torch.ones(2)), "q": torch.nn.Parameter(torch.ones(1))}
    assert_reads(save(tensors, tmp_path / "x.pth", way), tensors)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_tensors_that_no_model_can_have(tmp_path: Path, way: str) -> None:
    strange = {
        "int64, shape (3,)": torch.arange(3),
        "bool, shape (1,)": torch.tensor([True]),
        "uint8, shape (2,)": torch.zeros(2, dtype=torch.uint8),
        "uint16, shape (2,)": torch.zeros(2, dtype=torch.uint16),
        "complex64, shape (2,)": torch.zeros(2) + 1j,
        "float8_e4m3fn, shape (2, 2)": torch.zeros(2, 2, dtype=torch.float8_e4m3fn),
        "float8_e8m0fnu, shape (2,)": torch.zeros(2).to(torch.float8_e8m0fnu),
        "empty float32, shape (0, 3)": torch.zeros(0, 3),
        "a sparse tensor": torch.eye(3).to_sparse(),
        "a tensor quantized by torch": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "a meta tensor, which has no numbers": torch.ones(2, device="meta"),
        "a view that negates or conjugates its numbers": torch.ones(2, dtype=torch.complex64).conj().imag,
    }
    kept = torch.arange(12.0)
    path = save({f"t{i}": value for i, value in enumerate(strange.values())} | {"w": kept}, tmp_path / "x.pth", way)
    with open_checkpoint(path) as source:
        assert list(source.left_out.values()) == list(strange)
    assert_reads(path, {"w": kept})
    for what, value in strange.items():
        with pytest.raises(
            UnsupportedError, match=f"x.pth: w: expected numbers of type .* got {re.escape(what)}; save"
        ):
            open_checkpoint(save({"w": value}, tmp_path / "x.pth", way))


def test_whole_modules_are_refused(tmp_path: Path, way: str) -> None:
    path = save(torch.nn.Linear(2, 2), tmp_path / "x.pth", way)
    with pytest.raises(UnsupportedError, match=r"got the name 'torch.nn.modules.*save the weights alone"):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(UnsupportedError, match="got a TorchScript program"):
        open_checkpoint(tmp_path / "x.pt")


def test_the_demo_checkpoint(kjv_checkpoint: Path) -> None:
    assert_reads(kjv_checkpoint, torch.load(kjv_checkpoint, weights_only=True))


def test_storages_are_mapped_where_torch_aligns_them(tmp_path: Path) -> None:
    path = save({"w": torch.arange(6.0)}, tmp_path / "x.pth", NEW)
    with open_checkpoint(path) as source:
        view = source.view("w")
    np.testing.assert_array_equal(view, np.arange(6, dtype=np.float32))


def test_a_deflated_archive(tmp_path: Path) -> None:
    """As zip writes it from the files of an unpacked archive; torch reads it too."""
    tensors = every_type()
    path = save(tensors, tmp_path / "x.pth", NEW)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.comment = b"packed anew"
    torch.load(tmp_path / "y.pth", weights_only=True)
    assert_reads(tmp_path / "y.pth", tensors)
