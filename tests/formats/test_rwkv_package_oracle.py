"""The ``rwkv`` package's own conversions: its logits in float32 are ours."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS, every_logits, tokens_for
from formats.converted import Strategy, convert_parameters
from rwkv_cy.dtypes import widen
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_package import assert_close

torch = pytest.importorskip("torch", reason="needs torch==2.13.0")
pytest.importorskip("rwkv", reason="needs the rwkv package")
pytestmark = pytest.mark.oracle

#: The package converts no later version, and runs RWKV-4 with an attention as wide as the model only.
MODELS = {
    name: replace(config, d_att=config.d_model)
    for name, config in CONFIGS.items()
    if name.startswith(("rwkv4", "rwkv5", "rwkv6")) and "odd" not in name
}


@pytest.fixture(scope="module")
def package() -> ModuleType:
    """The package as it runs the versions before 7."""
    import importlib.util

    spec = importlib.util.find_spec("rwkv.model")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, {"RWKV_V7_ON": "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}):
        spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _settings() -> Any:
    with (
        mock.patch.dict(os.environ, {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield


def convert(package: ModuleType, folder: Path, parameters: dict[str, Any], strategy: str) -> Path:
    """Have the package convert a checkpoint."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in parameters.items()}
    torch.save(tensors, folder / "original.pth")
    with pytest.raises(SystemExit):
        package.RWKV(str(folder / "original"), strategy, convert_and_save_and_exit=str(folder / "converted"))
    return folder / "converted.pth"


@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu fp32i8"])
@pytest.mark.parametrize("name", MODELS)
def test_its_logits(package: ModuleType, tmp_path: Path, name: str, strategy: str) -> None:
    parameters = random_checkpoint(MODELS[name], optional=False)
    path = convert(package, tmp_path, parameters, strategy)
    model = load(path, dtype="f32")
    tokens = tokens_for(model, 20)
    logits, _ = every_logits(model, tokens)
    if not name.startswith("rwkv6"):  # of which it cannot read what it has converted: it has renamed time_faaaa
        theirs = package.RWKV(str(tmp_path / "converted"), strategy)
        assert_close(logits, theirs.forward(tokens, None, full_output=True)[0].numpy())
    if strategy == "cpu fp32":
        assert_close(logits, every_logits(LanguageModel(MODELS[name], parameters), tokens)[0])


@pytest.mark.parametrize("strategy", ["cpu fp32", "cuda fp16i8", "cuda fp16 *1 -> cpu fp32i8", "cpu bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_its_tensors(package: ModuleType, tmp_path: Path, name: str, strategy: str) -> None:
    """Names, shapes and values of every strategy, mixed ones too."""
    parameters = random_checkpoint(MODELS[name], optional=False)
    with open_checkpoint(convert(package, tmp_path, parameters, strategy)) as source:
        assert set(source.names()) == {title for title in parameters if ".ln0." not in title}
        for title in source.names():
            info = source.info(title)
            assert info.shape == parameters[title].shape
            buffer = np.empty(info.size, info.codec.array_dtype)
            source.read_into(title, buffer)
            if title == "emb.weight":
                continue
            difference = np.abs(widen(buffer, info.dtype, "f64").reshape(info.shape) - parameters[title])
            assert difference.max() <= 0.02 * max(1.0, np.abs(parameters[title]).max())


def test_the_maker_of_tests_converts_as_it_does(package: ModuleType, tmp_path: Path) -> None:
    for name in MODELS:
        parameters = random_checkpoint(MODELS[name], optional=False)
        for strategy, ours in (("cpu fp32", Strategy("f32", "f32")), ("cpu fp32i8", Strategy("f32", "i8"))):
            theirs = torch.load(convert(package, tmp_path, parameters, strategy), weights_only=True)
            expected = convert_parameters(parameters, ours)
            tensors = {key: value for key, value in theirs.items() if not key.startswith("_")}
            assert tensors.keys() == expected.keys()
            for key, (_, array) in expected.items():
                tensor = tensors[key].numpy()
                assert tensor.shape == array.shape
                assert tensor.strides == array.strides or 1 in tensor.shape
                np.testing.assert_allclose(tensor, array, rtol=1e-5, atol=1 if tensor.dtype == np.uint8 else 1e-6)
