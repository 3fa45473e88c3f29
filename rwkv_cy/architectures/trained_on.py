"""What a file of adapters or tuned states says of the version that it was trained on.

Names and shapes of such tensors are often those of several versions, and the numbers are of use to one of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from rwkv_cy.architectures.registry import ARCHITECTURES
from rwkv_cy.config import Config

__all__ = ["another_version", "trained_on"]

#: The entry of a safetensors file's metadata; the files of other programs do not have it.
_KEY = "rwkv_cy_architecture"


def trained_on(config: Config) -> dict[str, str]:
    """Return the metadata of what was trained on a model."""
    return {_KEY: config.architecture}


def another_version(metadata: Mapping[str, str], config: Config) -> str | None:
    """Return the name of the version that a file was trained on; None if it is the model's, or the file does not say.

    Parameters
    ----------
    metadata : mapping of str to str
        Of the file.
    config : Config
        Of the model.
    """
    said = metadata.get(_KEY, config.architecture)
    if said == config.architecture:
        return None
    return ARCHITECTURES[said].label if said in ARCHITECTURES else repr(said[:40])
