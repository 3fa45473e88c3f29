"""Run RWKV language models on the CPU: kernels, model files, text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwkv_cy.config import Config
    from rwkv_cy.convert import convert as convert_file
    from rwkv_cy.demo import demo_model_path
    from rwkv_cy.errors import RWKVError
    from rwkv_cy.inspect import inspect_file
    from rwkv_cy.language_model import LanguageModel, load
    from rwkv_cy.layer import ChannelMix, Layer, TimeMix
    from rwkv_cy.model import Model
    from rwkv_cy.parameters import Parameter
    from rwkv_cy.runtime import get_num_threads, set_num_threads
    from rwkv_cy.state import LayerState, State
    from rwkv_cy.verify import verify_file

__version__ = "0.1.0"

__all__ = [
    "ChannelMix",
    "Config",
    "LanguageModel",
    "Layer",
    "LayerState",
    "Model",
    "Parameter",
    "RWKVError",
    "State",
    "TimeMix",
    "__version__",
    "convert_file",
    "demo_model_path",
    "get_num_threads",
    "inspect_file",
    "load",
    "set_num_threads",
    "verify_file",
]

# Each name is imported when it is first used: "import rwkv_cy" costs no HDF5 and no compiled kernel. A name stands
# for the same one in its module, unless that is given after a colon.
_HOMES = {
    "ChannelMix": "layer",
    "Config": "config",
    "LanguageModel": "language_model",
    "Layer": "layer",
    "LayerState": "state",
    "Model": "model",
    "Parameter": "parameters",
    "RWKVError": "errors",
    "State": "state",
    "TimeMix": "layer",
    "convert_file": "convert:convert",
    "demo_model_path": "demo",
    "get_num_threads": "runtime",
    "inspect_file": "inspect",
    "load": "language_model",
    "set_num_threads": "runtime",
    "verify_file": "verify",
}

# Rooms that the API reference names, which "import rwkv_cy" is enough for.
_ROOMS = frozenset(
    {
        "architectures",
        "bench",
        "config",
        "convert",
        "dtypes",
        "errors",
        "formats",
        "inspect",
        "language_model",
        "layer",
        "model",
        "parameters",
        "perplexity",
        "runtime",
        "sources",
        "state",
        "storage",
        "text",
        "verify",
    }
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"rwkv_cy.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'rwkv_cy' has no attribute {name!r}")
    module, _, own_name = home.partition(":")
    value = getattr(import_module(f"rwkv_cy.{module}"), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
