"""Model files of every kind behind one door: our own, foreign ones, and models in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rwkv_cy.architectures import architecture_of, check_parameters, detect
from rwkv_cy.checkpoint.fingerprint import fingerprint
from rwkv_cy.config import Config
from rwkv_cy.dtypes import MATRIX_TYPES, PACKED
from rwkv_cy.errors import ConfigError, FormatError, SpecError
from rwkv_cy.files.identity import FileIdentity
from rwkv_cy.files.reading import is_folder
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.storage import ModelFile, is_model_file, open_model
from rwkv_cy.tensors.tensor import Parameter, ParameterSource, TensorInfo

__all__ = ["ArraySource", "check_layouts", "open_source", "source_config", "source_fingerprint"]


def open_source(path: str | os.PathLike[str]) -> ParameterSource:
    """Open a model file of any supported format, recognised by its content.

    Parameters
    ----------
    path : path-like
        A model file of ours, a checkpoint, or a folder of one.

    Raises
    ------
    StorageError
        If the operating system refuses the file.
    FormatError
        If it is damaged, or of no supported format.
    """
    path = Path(path)
    if not is_folder(path) and is_model_file(path):
        return open_model(path)
    return open_checkpoint(path)


def source_config(source: ParameterSource) -> Config:
    """Return the Config of the model in `source`, with its parameters checked against the architecture's table.

    Raises
    ------
    UnsupportedError
        If it is of a version that is not supported.
    SpecError
        If parameters are missing, unexpected or of the wrong shape, or others than matrices are quantized,
        packed, or lie transposed.
    FormatError
        If the file contradicts itself.
    """
    where = str(source.path)
    shapes = {name: source.info(name).shape for name in source.names()}
    config = detect(shapes, where)
    try:
        if isinstance(source, ModelFile):
            stored = Config.from_dict(source.header.config)
            if replace(stored, rescale_layer=0, layer_norm_eps=config.layer_norm_eps, dtype=config.dtype) != config:
                raise FormatError(
                    f"{where}: expected a header that fits the parameters ({config}), got {stored}; "
                    "the file is damaged: convert it again"
                )
            config = stored
        else:
            epsilon = source.metadata.get("layer_norm_epsilon")
            if epsilon is not None:
                config = replace(config, layer_norm_eps=_number(epsilon))
            if all(source.info(name).dtype == "f64" for name in source.names()):
                config = replace(config, dtype="f64")
    except ConfigError as error:
        raise FormatError(f"{where}: {error}; the file is damaged") from error
    check_parameters(config, shapes, where)
    check_layouts(config, {name: source.info(name) for name in source.names()}, where)
    return config


def check_layouts(config: Config, tensors: Mapping[str, TensorInfo | Parameter], where: str) -> None:
    """Raise SpecError if others than matrices are quantized, packed, or lie transposed; `where` is named in it."""
    for spec in architecture_of(config).parameters(config):
        tensor = tensors.get(spec.name)
        if tensor is None:
            continue  # optional
        if not spec.quantizable and tensor.dtype in MATRIX_TYPES:
            raise SpecError(
                f"{where}: {spec.name}: expected numbers that are in no blocks, got {tensor.dtype}; "
                "convert the original"
            )
        if not spec.quantizable and tensor.transposed:
            raise SpecError(f"{where}: {spec.name}: expected it as it is, got its transpose; convert the original")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"layer_norm_epsilon: expected a number, got {text[:40]!r}") from None


def source_fingerprint(source: ParameterSource) -> str:
    """Return the model's fingerprint: a model file keeps it, for others it is computed."""
    if isinstance(source, ModelFile):
        return source.header.fingerprint
    return fingerprint(source)


class ArraySource:
    """A model in memory as a :class:`~rwkv_cy.tensors.tensor.ParameterSource`.

    Parameters
    ----------
    config : Config
        Of the model.
    parameters : mapping of str to Parameter
        Every parameter, by canonical name.
    """

    def __init__(self, config: Config, parameters: Mapping[str, Parameter]) -> None:
        self.path = Path("a model in memory")
        self.format = "memory"
        self.metadata: Mapping[str, str] = {}
        order = [spec.name for spec in architecture_of(config).parameters(config)]
        self._parameters = {name: parameters[name] for name in order if name in parameters}

    @property
    def files(self) -> tuple[FileIdentity, ...]:
        """Memory is no file."""
        return ()

    def names(self) -> tuple[str, ...]:
        """Canonical names, in the architecture's order."""
        return tuple(self._parameters)

    def info(self, name: str) -> TensorInfo:
        """Describe the tensor `name`; KeyError if there is none."""
        parameter = self._parameters[name]
        nbytes, packed = int(parameter.array.nbytes), 0
        if parameter.dtype == PACKED:
            packed = nbytes
        return TensorInfo(
            name, parameter.shape, parameter.dtype, name, parameter.dtype, nbytes, parameter.transposed, packed
        )

    def read_into(self, name: str, buffer: npt.NDArray[Any], start: int = 0) -> None:
        """Fill `buffer` with elements of the array from `start` on, in C order."""
        buffer[...] = self._parameters[name].array.reshape(-1)[start : start + buffer.size]

    def view(self, name: str) -> npt.NDArray[Any]:
        """Return the array itself."""
        return self._parameters[name].array

    def check(self) -> None:
        """Memory is always whole."""

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> ArraySource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
