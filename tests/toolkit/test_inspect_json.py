"""The JSON of inspect against its documented schema, for every format, and the names of all schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator, ValidationError

from benchmarks.sparse import write_sparse
from checkpoints import numbers, small_parameters, write_safetensors
from rwkv7_shapes import rwkv7_config
from rwkv_cy import Config
from rwkv_cy.toolkit.inspect import inspect
from rwkv_cy.toolkit.schema_names import _VERSIONS, named, unicode_only

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = json.loads((DOCS / "schemas" / "inspect-1.json").read_text("utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)

CONFIG = rwkv7_config(64, 2, 32, (16, 8, 8, 16))
#: A small model in each format: the name of the file, and the type of its matrices.
FILES = {
    "hdf5": ("m.h5", "bf16"),
    "hdf5, q4": ("q.h5", "q4"),
    "pth": ("m.pth", "f16"),
    "safetensors": ("m.safetensors", "f32"),
    "safetensors, .st": ("m.st", "f16"),
    "gguf": ("m.gguf", "q8_0"),
    "rwkvcpp": ("m.bin", "q5_1"),
    "huggingface": ("folder", "bf16"),
}


def written(path: Path, **options: Any) -> dict[str, Any]:
    text = json.dumps(inspect(path, **options).to_dict(), allow_nan=False)
    value: dict[str, Any] = json.loads(text)
    return value


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kind", FILES)
def test_every_format(tmp_path: Path, kind: str) -> None:
    name, dtype = FILES[kind]
    write_sparse(tmp_path / name, CONFIG, dtype)
    for options in ({}, {"stats": True}, {"tensors": None, "speed": False}):
        report = written(tmp_path / name, **options)
        VALIDATOR.validate(report)
        assert (report["format"], report["problems"]) == (kind.partition(",")[0], [])
        assert report["architecture"] == "RWKV-7"
        assert report["num_tensors"] == sum(group["tensors"] for group in report["groups"])


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "\udcff\u00e9.h5"
    write_sparse(path, CONFIG, "bf16")
    assert written(path)["path"] == f"{tmp_path}/\\udcff\u00e9.h5"


def test_no_text_of_a_report_has_a_lone_surrogate() -> None:
    fields = {"a\udc80": ["\ud800x", ("\U0001f642", {"b": "\udfff"})], "c": None, "d": 1.5}
    result = named("info", fields)
    assert result == {
        "schema": "rwkv-cy/info/1",
        "a\\udc80": ["\\ud800x", ("\U0001f642", {"b": "\\udfff"})],
        "c": None,
        "d": 1.5,
    }
    assert unicode_only(result) == result

    class Pair(NamedTuple):
        first: str
        second: int

    assert unicode_only([Pair("\udcff", 1)]) == [("\\udcff", 1)]


def test_what_is_not_a_model(tmp_path: Path) -> None:
    VALIDATOR.validate(written(write_safetensors(tmp_path / "a", {"conv1": numbers(shape=(3, 3))})))
    parameters = small_parameters()
    del parameters["ln_out.bias"]
    VALIDATOR.validate(written(write_safetensors(tmp_path / "b", parameters), stats=True))


def test_a_field_that_is_missing_or_wrong_is_found(tmp_path: Path) -> None:
    write_sparse(tmp_path / "m.h5", Config(d_model=32, num_layers=2, vocab_size=40), "bf16")
    report = written(tmp_path / "m.h5")
    for field in SCHEMA["required"]:
        with pytest.raises(ValidationError, match=field):
            VALIDATOR.validate({name: value for name, value in report.items() if name != field})
        with pytest.raises(ValidationError):
            VALIDATOR.validate(report | {field: {"not": ["this"]}})


def test_every_field_is_documented(tmp_path: Path) -> None:
    write_sparse(tmp_path / "m.h5", Config(d_model=32, num_layers=2, vocab_size=40), "bf16")
    page = (DOCS / "commands" / "inspect.md").read_text("utf-8")
    report = written(tmp_path / "m.h5", stats=True)
    assert set(report) == set(SCHEMA["required"]) == set(SCHEMA["properties"])
    nested = ("expected", "groups", "tensors")
    fields = {
        *report,
        *report["machine"],
        *report["tensors"][0]["statistics"],
        *(k for n in nested for k in report[n][0]),
    }
    assert [name for name in sorted(fields) if f"`{name}`" not in page] == []


def test_the_schemas_that_the_page_lists() -> None:
    listed = set(re.findall(r"`rwkv-cy/([a-z-]+)/(\d+)`", (DOCS / "json.md").read_text("utf-8")))
    assert listed == {(kind, str(version)) for kind, version in _VERSIONS.items()}
