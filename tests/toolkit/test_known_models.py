from __future__ import annotations

import json
from pathlib import Path

import pytest

import rwkv_cy
from checkpoints import small_parameters
from formats.foreign import safetensors_file
from rwkv_cy.errors import HubError
from rwkv_cy.toolkit.known_models import KnownModel, find_known_model, known_models

#: Parameters, from the table of the authors and from the README of RWKV-4.
COUNTED = {
    "rwkv7-g1-0.1b": 191_084_544,
    "rwkv7-g1-0.4b": 450_834_432,
    "rwkv7-g1-1.5b": 1_527_668_736,
    "rwkv7-g1-2.9b": 2_948_065_280,
    "rwkv7-g1-7.2b": 7_199_932_416,
    "rwkv7-g1-13.3b": 13_238_317_056,
    "rwkv4-pile-169m": 169_342_464,
    "rwkv4-pile-430m": 430_397_440,
}
MODELS = known_models()


def test_names_are_unique_and_lead_to_their_models() -> None:
    names = [model.name for model in MODELS]
    assert len(set(names)) == len(names)
    for model in MODELS:
        assert find_known_model(model.name) == model
        assert find_known_model(model.name.replace("rwkv", "RWKV-").upper()) == model


@pytest.mark.parametrize(("name", "count"), COUNTED.items())
def test_parameters(name: str, count: int) -> None:
    assert find_known_model(name).num_parameters == count


@pytest.mark.parametrize("model", [model for model in MODELS if model.file_bytes], ids=lambda model: model.name)
def test_sizes_that_are_computed_agree_with_those_that_are_published(model: KnownModel) -> None:
    assert model.file_bytes is not None
    numbers = 2 * model.num_parameters
    # The rest are the names of the tensors; and in the largest, ranks that are not those of the authors' table.
    assert numbers < model.file_bytes < 1.003 * numbers
    assert model.size == model.file_bytes


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_model(model: KnownModel) -> None:
    memory = list(model.memory.values())
    assert memory == sorted(memory, reverse=True)
    assert 0.2 < model.memory["q4"] / model.memory["bf16"] < 0.6
    assert model.version in model.title or model.version.startswith("RWKV-5")
    assert str(model.hub_name).endswith(".pth")
    report = model.to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["size"] >= 2 * model.num_parameters


def test_memory_is_what_inspect_says(tmp_path: Path) -> None:
    header, end = {}, 0
    for name, array in small_parameters().items():
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [end, end + 2 * array.size]}
        end += 2 * array.size
    (tmp_path / "m.safetensors").write_bytes(safetensors_file(header, bytes(end)))
    report = rwkv_cy.inspect(tmp_path / "m.safetensors")
    assert report.config is not None
    model = KnownModel("x", "x", "o/n", "x.pth", report.config, "bytes", None, None)
    assert model.memory == report.memory
    assert (model.num_parameters, model.size) == (report.num_parameters, end)


def test_unknown_names() -> None:
    with pytest.raises(HubError, match="rwkv-cy models lists them"):
        find_known_model("rwkv9")
    with pytest.raises(HubError, match="names rwkv7-g1-0.1b, rwkv7-g1-0.4b") as error:
        find_known_model("rwkv7 g1")
    assert ("rwkv7-g1-13.3b", 26540868485) in error.value.files
