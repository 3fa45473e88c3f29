"""An open model of any format: its config, parameters, fingerprint and tokenizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_cy import formats, storage
from rwkv_cy.architectures import architecture_of, check_parameters, detect
from rwkv_cy.architectures.base import ParameterSpec
from rwkv_cy.checkpoint.fingerprint import fingerprint
from rwkv_cy.checkpoint.tokenizer_choice import choose_tokenizer, implied_tokenizer
from rwkv_cy.config import Config
from rwkv_cy.dtypes import MATRIX_TYPES
from rwkv_cy.errors import ConfigError, FormatError, SpecError, StorageError, UnsupportedError
from rwkv_cy.files.part_names import is_part_name, join_hint
from rwkv_cy.files.reading import is_folder
from rwkv_cy.formats.metadata import LAYER_NORM_EPSILON, NORMALIZED_EMBEDDING
from rwkv_cy.hub_names import is_hub_name
from rwkv_cy.records import dataclass, replace
from rwkv_cy.tensors.policy import may_be_stored_as, present
from rwkv_cy.tensors.tensor import Parameter, ParameterSource, TensorInfo

if TYPE_CHECKING:
    from rwkv_cy.storage import ModelHeader, StoredTokenizer
    from rwkv_cy.text import Tokenizer

__all__ = ["Alike", "Checkpoint", "check_layouts", "open_source"]

#: A message names so many tensors that are left out, and counts the others.
_LISTED = 5
#: What parameters have in common that differ in their names and layers alone.
_SPEC_OF_ALIKE = attrgetter("kind", "optional", "orientation", "sparse_input")
_INFO_OF_ALIKE = attrgetter("shape", "dtype", "source_dtype", "source_nbytes", "encoded_nbytes", "transposed")

#: Fields of Config by the settings of Hugging Face folders that mean the same in all of them.
_DIMENSIONS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "attention_hidden_size": "d_att",
    "intermediate_size": "d_ffn",
    "head_size": "head_size",
    "head_dim": "head_size",
}

#: Fields of Config by the metadata that holds them.
_EPSILONS = (
    ("layer_norm_epsilon", "layer_norm_eps"),
    (LAYER_NORM_EPSILON, "layer_norm_eps"),
    ("group_norm_epsilon", "group_norm_eps"),
)


@dataclass(frozen=True)
class Alike:
    """Parameters that differ in their names and layers alone.

    Attributes
    ----------
    spec : ParameterSpec
        One of them.
    info : TensorInfo
        The same one, as it is stored.
    count : int
        How many there are.
    """

    spec: ParameterSpec
    info: TensorInfo
    count: int


class Checkpoint:
    """An open model; a context manager that closes its files.

    Parameters
    ----------
    source : ParameterSource
        Where its tensors are read from; closed with the checkpoint.

    Attributes
    ----------
    source : ParameterSource
    path : Path
    """

    def __init__(self, source: ParameterSource) -> None:
        self.source = source
        self.path = source.path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open a model file of any supported format; see :func:`open_source`."""
        return cls(open_source(path))

    @property
    def header(self) -> ModelHeader | None:
        """The header of a model file of this package; None for other formats."""
        if self.source.format != storage.MODEL_FORMAT:  # whose reader need not be loaded
            return None
        return self.source.header if isinstance(self.source, storage.ModelFile) else None

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical names and shapes of all tensors."""
        return {name: info.shape for name, info in self.infos.items()}

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Descriptions of all tensors by canonical name, in the file's order."""
        info = self.source.info
        return {name: info(name) for name in self.source.names()}

    @cached_property
    def config(self) -> Config:
        """The Config of the model, with its tensors checked against the architecture's parameter table.

        Raises
        ------
        UnsupportedError
            If it is of a version that is not supported.
        SpecError
            If parameters are missing, unexpected or of the wrong shape, or stored in a way that kernels cannot use.
        FormatError
            If the file contradicts itself.
        """
        where = str(self.path)
        try:
            detected = detect(self.shapes, where)
            config = self._foreign_config(detected) if self.header is None else self._own_config(self.header, detected)
            check_parameters(config, self.shapes, where)
        except ConfigError as error:
            raise FormatError(f"{where}: {error}; the file is damaged") from error
        except (SpecError, UnsupportedError) as error:
            if not self.source.left_out:
                raise
            raise type(error)(
                f"{error}; left out, because weights are floats: {_listed(self.source.left_out)}"
            ) from error
        check_layouts(config, self.infos, where)
        return config

    def _own_config(self, header: ModelHeader, detected: Config) -> Config:
        stored = Config.from_dict(header.config)
        # What the tensors do not tell: the arithmetic, ranks of optional tensors that are missing, and whether ln0 is.
        comparable = replace(
            stored,
            rescale_layer=0,
            layer_norm_eps=detected.layer_norm_eps,
            group_norm_eps=detected.group_norm_eps,
            compute_dtype=detected.compute_dtype,
            embedding_norm=detected.embedding_norm,
            ranks={name: rank for name, rank in stored.ranks.items() if name in detected.ranks},
        )
        if comparable != detected:
            raise FormatError(
                f"{self.path}: expected a header that fits the parameters ({detected}), got {stored}; "
                "the file is damaged: convert it again"
            )
        return stored

    def _foreign_config(self, detected: Config) -> Config:
        config = detected
        if self.source.format == "huggingface":
            self._check_settings(detected)
        for key, name in _EPSILONS:
            epsilon = self.source.metadata.get(key)
            if epsilon is not None:
                config = replace(config, **{name: _number(key, epsilon)})  # type: ignore[arg-type]
        if self.source.metadata.get(NORMALIZED_EMBEDDING) == "true":
            config = replace(config, embedding_norm=False)
        if all(info.dtype == "f64" for info in self.infos.values()):
            config = replace(config, compute_dtype="f64")
        return config

    def _check_settings(self, detected: Config) -> None:
        """Hold the dimensions in config.json against those of the tensors."""
        for key, name in _DIMENSIONS.items():
            stated, actual = self.source.metadata.get(key, "null"), getattr(detected, name)
            if actual and stated not in ("null", str(actual)):
                raise FormatError(
                    f"{self.path}: config.json: {key}: expected {actual}, as the tensors have, got {stated[:40]}; "
                    "it is another model's, or the weights are: download the folder again"
                )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about the file, one sentence each."""
        left_out = self.source.left_out
        return (f"{self.path}: left out what no model needs: {_listed(left_out)}",) if left_out else ()

    @cached_property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """The architecture's parameters that this model has, in the architecture's order."""
        table = architecture_of(self.config).parameters(self.config)
        # A model has no others: one that has so many has them all.
        return table if len(table) == len(self.infos) else tuple(present(self.source, table))

    @cached_property
    def alike(self) -> tuple[Alike, ...]:
        """The parameters by what is the same in many layers: all but the name."""
        specs = {spec.name: spec for spec in self.specs}
        found: dict[tuple[object, ...], list[str]] = {}
        for name, info in self.infos.items():
            key = _SPEC_OF_ALIKE(specs[name]), _INFO_OF_ALIKE(info)
            if key in found:
                found[key].append(name)
            else:
                found[key] = [name]
        return tuple(Alike(specs[names[0]], self.infos[names[0]], len(names)) for names in found.values())

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the parameters that states carry: stored in a model file, computed for other formats."""
        return fingerprint(self.source) if self.header is None else self.header.fingerprint

    def choose_tokenizer(self, name: str | None = None) -> tuple[StoredTokenizer | None, tuple[str, ...]]:
        """Return the tokenizer to store beside the parameters, and warnings.

        See :func:`rwkv_cy.checkpoint.tokenizer_choice.choose_tokenizer`.
        """
        return choose_tokenizer(self.source, self.config.vocab_size, name)

    def tokenizer_maker(self) -> Callable[[], Tokenizer | None]:
        """Return what makes the tokenizer of this model, or None: the stored one, or the one that it implies."""
        if self.header is not None:
            from rwkv_cy.text import load_tokenizer

            stored = self.header.tokenizer
            return lambda: None if stored is None else load_tokenizer(stored.kind, stored.data)
        source, vocab_size = self.source, self.config.vocab_size
        return lambda: _implied(source, vocab_size)

    def close(self) -> None:
        """Close the files. Arrays over their memory maps stay valid."""
        self.source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_source(path: str | os.PathLike[str]) -> ParameterSource:
    """Open the tensors of a model file of any supported format, recognised by its content.

    Parameters
    ----------
    path : path-like
        A model file of this package, a checkpoint, or a folder of one; or the name of one on the Hugging Face hub,
        ``hf:owner/name/file@revision``, which is downloaded to the hub's cache if it is not there.

    Raises
    ------
    StorageError
        If the operating system refuses the file, or it cannot be downloaded (HubError).
    UnsupportedError
        If it is a part of a file; the message says how to join the parts.
    FormatError
        If it is damaged, or of no supported format.
    """
    if not os.fspath(path):
        raise StorageError("model: expected a path, got an empty text; name a file or a folder")
    if is_hub_name(path):
        from rwkv_cy.hub import local_path  # which most files do not need

        path = local_path(path)
    path = Path(path)
    if is_folder(path):
        return formats.open_checkpoint(path)
    hint = join_hint([path])
    if hint is not None:
        what = "a part of a file" if is_part_name(path.name) else "the list of the parts of a file"
        raise UnsupportedError(f"{path}: expected a model file or checkpoint, got {what}; {hint}")
    return storage.open_model(path) if storage.is_model_file(path) else formats.open_checkpoint(path)


def check_layouts(config: Config, tensors: Mapping[str, TensorInfo | Parameter], where: str) -> None:
    """Raise SpecError if a parameter is quantized, packed or transposed that kernels need otherwise.

    Parameters
    ----------
    config : Config
    tensors : mapping of str to TensorInfo or Parameter
        By canonical name.
    where : str
        The file, for messages.
    """
    for spec in architecture_of(config).parameters(config):
        tensor = tensors.get(spec.name)
        if tensor is None or not (tensor.transposed or tensor.dtype in MATRIX_TYPES):
            continue  # optional, or an array that kernels take for any parameter
        if may_be_stored_as(spec, tensor.dtype, transposed=tensor.transposed):
            continue
        if tensor.dtype in MATRIX_TYPES and not may_be_stored_as(spec, tensor.dtype, transposed=not tensor.transposed):
            expected, found = "a floating point type", tensor.dtype
        elif tensor.transposed:
            expected, found = "an array that is not transposed", "its transpose"
        else:
            expected, found = f"the {tensor.dtype} blocks of its transpose", "its own"
        raise SpecError(f"{where}: {spec.name}: expected {expected}, got {found}; convert the original")


def _listed(left_out: Mapping[str, str]) -> str:
    """Describe tensors that are left out: a few of them, and the number of the others."""
    shown = [f"{name} ({what})" for name, what in islice(left_out.items(), _LISTED)]
    return ", ".join(shown) + (f" and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else "")


def _implied(source: ParameterSource, vocab_size: int) -> Tokenizer | None:
    """Return the tokenizer that a foreign checkpoint implies; warn of the files that were passed by."""
    found = implied_tokenizer(source, vocab_size)
    for reason in found.passed:
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
    return found.tokenizer


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{key}: expected a number, got {text[:40]!r}") from None
