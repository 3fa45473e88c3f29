"""Run RWKV language models on the CPU: kernels, model files, text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rwkv_cy.lazy import names_from

if TYPE_CHECKING:
    from rwkv_cy.config import Config
    from rwkv_cy.demo import demo_model_path
    from rwkv_cy.errors import (
        BusyError,
        ConfigError,
        FormatError,
        GenerationError,
        HubError,
        KernelError,
        MissingDependencyError,
        NotEnoughMemoryError,
        NumericalError,
        RWKVError,
        SpecError,
        StateError,
        StorageError,
        TokenError,
        TokenizerError,
        UnsupportedError,
    )
    from rwkv_cy.model.encoder import Model
    from rwkv_cy.model.language_model import LanguageModel, load
    from rwkv_cy.model.layer import ChannelMix, Layer, TimeMix
    from rwkv_cy.model.state import LayerState, State
    from rwkv_cy.runtime import get_num_threads, set_num_threads
    from rwkv_cy.tensors.tensor import Parameter
    from rwkv_cy.text import Generation, LogitsProcessor, Logprobs, SamplingOptions, Tokenizer
    from rwkv_cy.toolkit.bench import benchmark
    from rwkv_cy.toolkit.convert import convert, quantize
    from rwkv_cy.toolkit.diff import diff
    from rwkv_cy.toolkit.export import export
    from rwkv_cy.toolkit.inspect import inspect
    from rwkv_cy.toolkit.known_models import known_models
    from rwkv_cy.toolkit.merge import merge
    from rwkv_cy.toolkit.parts import join, shard
    from rwkv_cy.toolkit.perplexity import perplexity
    from rwkv_cy.toolkit.pull import pull
    from rwkv_cy.toolkit.verify import verify
    from rwkv_cy.training import TrainingOptions, train, tune

__version__ = "0.1.0"

# Each name is imported when it is first used: "import rwkv_cy" loads neither HDF5 nor the compiled kernels.
_MODULES = {
    "config": ("Config",),
    "demo": ("demo_model_path",),
    "errors": (
        "BusyError",
        "ConfigError",
        "FormatError",
        "GenerationError",
        "HubError",
        "KernelError",
        "MissingDependencyError",
        "NotEnoughMemoryError",
        "NumericalError",
        "RWKVError",
        "SpecError",
        "StateError",
        "StorageError",
        "TokenError",
        "TokenizerError",
        "UnsupportedError",
    ),
    "model.encoder": ("Model",),
    "model.language_model": ("LanguageModel", "load"),
    "model.layer": ("ChannelMix", "Layer", "TimeMix"),
    "model.state": ("LayerState", "State"),
    "runtime": ("get_num_threads", "set_num_threads"),
    "tensors.tensor": ("Parameter",),
    "text": ("Generation", "LogitsProcessor", "Logprobs", "SamplingOptions", "Tokenizer"),
    "toolkit.bench": ("benchmark",),
    "toolkit.convert": ("convert", "quantize"),
    "toolkit.diff": ("diff",),
    "toolkit.export": ("export",),
    "toolkit.inspect": ("inspect",),
    "toolkit.known_models": ("known_models",),
    "toolkit.merge": ("merge",),
    "toolkit.parts": ("join", "shard"),
    "toolkit.perplexity": ("perplexity",),
    "toolkit.pull": ("pull",),
    "toolkit.verify": ("verify",),
    "training": ("TrainingOptions", "train", "tune"),
}
_own_name = names_from(__name__, _MODULES)

__all__ = [
    "BusyError",
    "ChannelMix",
    "Config",
    "ConfigError",
    "FormatError",
    "Generation",
    "GenerationError",
    "HubError",
    "KernelError",
    "LanguageModel",
    "Layer",
    "LayerState",
    "LogitsProcessor",
    "Logprobs",
    "MissingDependencyError",
    "Model",
    "NotEnoughMemoryError",
    "NumericalError",
    "Parameter",
    "RWKVError",
    "SamplingOptions",
    "SpecError",
    "State",
    "StateError",
    "StorageError",
    "TimeMix",
    "TokenError",
    "Tokenizer",
    "TokenizerError",
    "TrainingOptions",
    "UnsupportedError",
    "__version__",
    "benchmark",
    "convert",
    "demo_model_path",
    "diff",
    "export",
    "get_num_threads",
    "inspect",
    "join",
    "known_models",
    "load",
    "merge",
    "perplexity",
    "pull",
    "quantize",
    "set_num_threads",
    "shard",
    "train",
    "tune",
    "verify",
]

# Packages of the API reference, which "import rwkv_cy" is enough for.
_PACKAGES = (
    "architectures",
    "dtypes",
    "engine",
    "errors",
    "formats",
    "model",
    "storage",
    "tensors",
    "text",
    "toolkit",
    "training",
)


def __getattr__(name: str) -> Any:
    return import_module(f"rwkv_cy.{name}") if name in _PACKAGES else _own_name(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})
