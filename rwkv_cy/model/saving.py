"""Saving: the parameters of a model in memory, written to a model file."""

from __future__ import annotations

import os

from rwkv_cy import __version__
from rwkv_cy.architectures import architecture_of
from rwkv_cy.checkpoint.memory import MemorySource
from rwkv_cy.checkpoint.tokenizer_choice import stored_tokenizer
from rwkv_cy.model.loading import Loaded
from rwkv_cy.storage import ModelHeader, check_replaceable, write_model
from rwkv_cy.tensors.converter import Converter, FileSink
from rwkv_cy.tensors.policy import choose_all

__all__ = ["save_parameters"]


def save_parameters(path: str | os.PathLike[str], model: Loaded, *, overwrite: bool) -> None:
    """Write a model file of what a language model is made of; see :meth:`rwkv_cy.LanguageModel.save`."""
    if overwrite:
        check_replaceable(path, "model")
    config = model.config
    tokenizer = model.tokenizer
    header = ModelHeader(
        architecture=config.architecture,
        config=config.to_dict(),
        fingerprint=model.fingerprint,
        tokenizer=None if tokenizer is None else stored_tokenizer(tokenizer, config.vocab_size, os.fspath(path)),
        source={"name": "", "format": "memory"},
        created_by=f"rwkv-cy {__version__}",
    )
    source = MemorySource(config, model.parameters)
    targets = choose_all(source, architecture_of(config).parameters(config), None)
    infos = [target.info for target in targets.values()]
    write_model(path, header, infos, FileSink(Converter(source), targets).read, overwrite=overwrite)
