"""The config.json of each project's folders, by layout: a table of settings.

Sources: transformers, models/rwkv/configuration_rwkv.py (RWKV-4); github.com/BBuf/RWKV-World-HF-Tokenizer,
rwkv5_model and rwkv6_model (the code that comes with RWKV's checkpoints of these versions); the configuration of
RWKV/RWKV7-1.5B-20260805; github.com/fla-org/flash-linear-attention, fla/models/rwkv6 and rwkv7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from rwkv_cy.config import Config
from rwkv_cy.formats.layouts.fla import FLA, FLA_6
from rwkv_cy.formats.layouts.huggingface import HUGGINGFACE_4, HUGGINGFACE_7, HUGGINGFACE_WRITTEN
from rwkv_cy.formats.layouts.layout import Layout, Shapes

__all__ = ["WORLD_CODE", "config_problems", "huggingface_config"]

Settings = dict[str, Any]

_CONTEXT = 4096
#: Half precision is kept in range by halving the residual stream after so many layers.
_RESCALE_EVERY = 6
#: Code on the Hugging Face hub that runs a World vocabulary in transformers.
WORLD_CODE = "fla-hub/rwkv7-0.1B-g1--hf_rwkv_tokenizer.RwkvTokenizer"
#: Repositories there whose code runs RWKV-5 and RWKV-6.
_CODE_5, _CODE_6 = "RWKV/v5-Eagle-7B-HF", "RWKV/v6-Finch-1B6-HF"


def _frame(config: Config) -> Settings:
    """Return the settings that all projects call the same."""
    return {
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ffn,
        "num_hidden_layers": config.num_layers,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _rwkv4(config: Config, shapes: Shapes, dtype: str) -> Settings:
    return {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "attention_hidden_size": config.d_att,
        "context_length": _CONTEXT,
        "layer_norm_epsilon": config.layer_norm_eps,
        "rescale_every": _RESCALE_EVERY if dtype == "f16" else 0,
        **_frame(config),
    }


def _remote_code(config: Config, version: int, repository: str, dtype: str) -> Settings:
    return {
        "architectures": [f"Rwkv{version}ForCausalLM"],
        "model_type": f"rwkv{version}",
        "auto_map": {
            "AutoConfig": f"{repository}--configuration_rwkv{version}.Rwkv{version}Config",
            "AutoModelForCausalLM": f"{repository}--modeling_rwkv{version}.Rwkv{version}ForCausalLM",
        },
        "attention_hidden_size": config.d_att,
        "context_length": _CONTEXT,
        "head_size": config.head_size,
        "head_size_divisor": 8,
        **_group_epsilon(config, Config.group_norm_eps),
        "layer_norm_epsilon": config.layer_norm_eps,
        "rescale_every": _RESCALE_EVERY if dtype == "f16" else 0,
        **_frame(config),
    }


def _rwkv5_or_6(config: Config, shapes: Shapes, dtype: str) -> Settings:
    if "blocks.0.att.time_maa_x" in shapes:
        return _remote_code(config, 6, _CODE_6, dtype)
    return _remote_code(config, 5, _CODE_5, dtype)


def _ranks(config: Config, shapes: Shapes) -> Settings:
    """Return the ranks of RWKV-7's low-rank products; a model of one layer has no value residual."""
    names = {"w": "decay_low_rank_dim", "a": "a_low_rank_dim", "v": "v_low_rank_dim", "g": "gate_low_rank_dim"}
    return {names[name]: rank for name, rank in config.ranks.items() if name in names}


def _usual_epsilon(config: Config) -> float:
    """Return the epsilon of the GroupNorm that the code for RWKV-7 computes from that of the LayerNorms."""
    return config.head_size * config.layer_norm_eps


def _group_epsilon(config: Config, read: float) -> Settings:
    """Return the epsilon of the GroupNorm, for this package, where it would read another one from the folder."""
    usual = math.isclose(config.group_norm_eps, read, rel_tol=1e-6)
    return {} if usual else {"group_norm_epsilon": config.group_norm_eps}


def _rwkv7(config: Config, shapes: Shapes, dtype: str) -> Settings:
    return {
        "architectures": ["Rwkv7ForCausalLM"],
        "model_type": "rwkv7",
        "head_dim": config.head_size,
        "num_heads": config.d_att // config.head_size,
        **_ranks(config, shapes),
        "norm_bias": True,
        "norm_eps": config.layer_norm_eps,
        **_group_epsilon(config, _usual_epsilon(config)),
        **_frame(config),
    }


def _fla_frame(config: Config) -> Settings:
    return {
        "attn": None,
        "attn_mode": "chunk",
        "fuse_cross_entropy": True,
        "fuse_norm": True,
        "hidden_act": "sqrelu",
        "hidden_ratio": config.d_ffn / config.d_model,
        "max_position_embeddings": _CONTEXT,
        "norm_bias": True,
        "norm_eps": config.layer_norm_eps,
        "norm_first": True,
        "num_heads": config.d_att // config.head_size,
        **_frame(config),
    }


def _fla7(config: Config, shapes: Shapes, dtype: str) -> Settings:
    return {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "head_dim": config.head_size,
        **_ranks(config, shapes),
        "value_dim": [config.d_att] * config.num_layers,
        **_group_epsilon(config, _usual_epsilon(config)),
        **_fla_frame(config),
    }


def _fla6(config: Config, shapes: Shapes, dtype: str) -> Settings:
    return {
        "architectures": ["RWKV6ForCausalLM"],
        "model_type": "rwkv6",
        "expand_k": 1.0,
        "expand_v": 1.0,
        "proj_low_rank_dim": shapes["blocks.0.att.time_maa_w2"][1],
        "gate_low_rank_dim": shapes["blocks.0.att.time_decay_w1"][1],
        **_group_epsilon(config, Config.group_norm_eps),
        **_fla_frame(config),
    }


_CONFIGS: dict[str, Callable[[Config, Shapes, str], Settings]] = {
    HUGGINGFACE_4.name: _rwkv4,
    HUGGINGFACE_WRITTEN.name: _rwkv5_or_6,
    HUGGINGFACE_7.name: _rwkv7,
    FLA.name: _fla7,
    FLA_6.name: _fla6,
}
#: The epsilon of the GroupNorm in the code for a layout, where it follows from others.
_EPSILONS: dict[str, Callable[[Config], float]] = {
    HUGGINGFACE_WRITTEN.name: lambda config: Config.group_norm_eps,
    HUGGINGFACE_7.name: _usual_epsilon,
    FLA.name: _usual_epsilon,
    FLA_6.name: lambda config: config.layer_norm_eps,
}
#: At this width, the code for RWKV-6 has low-rank products that are twice as wide.
_LARGE = 4096


def huggingface_config(layout: Layout, config: Config, shapes: Shapes, dtype: str) -> Settings:
    """Return the settings of a model in a layout.

    Parameters
    ----------
    layout : Layout
        One of those that folders are written in.
    config : Config
    shapes : mapping of str to tuple of int
        Canonical names and shapes of the model.
    dtype : str
        Storage type of the matrices.
    """
    return _CONFIGS[layout.name](config, shapes, dtype)


def config_problems(layout: Layout, config: Config, shapes: Shapes) -> Iterator[str]:
    """Yield what the project's code cannot know of the model, so that it computes something else or fails."""
    if config.d_att != config.d_model and layout.name != HUGGINGFACE_4.name:
        yield f"expects attention as wide as the model, {config.d_model}, got {config.d_att}"
    epsilon = _EPSILONS[layout.name](config) if layout.name in _EPSILONS else config.group_norm_eps
    if not math.isclose(config.group_norm_eps, epsilon, rel_tol=1e-6):
        yield f"has {epsilon:g} for the epsilon of the GroupNorm, and the model {config.group_norm_eps:g}"
    if layout.name == HUGGINGFACE_WRITTEN.name:
        width = config.d_model * 7 // 2 // 32 * 32
        if config.d_ffn != width:
            yield f"expects a channel mix of width {width}, got {config.d_ffn}"
        ranks = {"maa": 32, "decay": 64} if config.d_model != _LARGE else {"maa": 64, "decay": 128}
        if config.ranks and config.ranks != ranks:
            yield f"expects the ranks {ranks}, got {dict(config.ranks)}"
    if any(name.endswith(".time_state") for name in shapes):
        yield "starts from a state of zeros, and the model has an initial state of its own"
