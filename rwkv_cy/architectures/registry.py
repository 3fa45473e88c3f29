"""Which version of RWKV a file holds, told from the names and shapes of its tensors alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rwkv_cy.architectures.base import Architecture, Shapes
from rwkv_cy.architectures.rwkv4 import RWKV4
from rwkv_cy.config import Config
from rwkv_cy.errors import SpecError, UnsupportedError

__all__ = ["ARCHITECTURES", "check_parameters", "detect", "version_label"]

#: Every version that this package runs.
ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in (RWKV4,)}

#: A SpecError names so many tensors of a kind, and counts the rest.
_NAMED = 20
#: A file of one small tensor for each of many layers would take a table many times its own size to be compared with:
#: such a table is made only up to so many lines for each tensor of the file, and some for files of few.
_RICH, _POOR = 4, 10_000


def _any(part: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes)


def _is_52(shapes: Shapes) -> bool:
    shape = shapes.get("blocks.0.att.time_decay", ())
    return _any(".att.ln_x.")(shapes) and len(shape) >= 2 and shape[1] > 1


#: What is recognised, the first that fits: label, and the test. Ahead of the versions stand their variants.
_KNOWN: tuple[tuple[str, Callable[[Shapes], bool]], ...] = (
    ("a LoRA adapter", lambda shapes: _any("lora_A")(shapes) or _any(".lora_a")(shapes) or _any("lora_M")(shapes)),
    (
        "a state file (time_state only)",
        lambda shapes: bool(shapes) and all(name.endswith("time_state") for name in shapes),
    ),
    ("RWKV-7a", _any("ffn.s_emb")),
    ("RWKV-7b", _any(".qkv.")),
    ("RWKV-6a, 6b or 6c", lambda shapes: _any("att.gate_w1")(shapes) or _any("att.time_maa_rkvw_")(shapes)),
    ("RWKV-8", _any(".rosa")),
    ("RWKV-7", _any(".att.r_k")),
    ("RWKV-6", _any(".att.time_maa_x")),
    ("RWKV-5.2", _is_52),
    ("RWKV-5.1", lambda shapes: _any(".att.ln_x.")(shapes) and _any(".att.gate.")(shapes)),
    ("RWKV-5.0", _any(".att.ln_x.")),
    *((architecture.label, architecture.matches) for architecture in ARCHITECTURES.values()),
)


def version_label(shapes: Shapes) -> str | None:
    """Return the name of what the tensors are, supported or not; None where nothing is recognised."""
    return next((label for label, matches in _KNOWN if matches(shapes)), None)


def detect(shapes: Shapes, where: str) -> Config:
    """Return the Config of the model whose tensors have these names and shapes.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Canonical names and shapes.
    where : str
        What the tensors are from, for messages.

    Raises
    ------
    UnsupportedError
        If this is a kind of model that the package knows but does not run, or none it knows.
    SpecError
        If a tensor that gives a dimension is missing or of the wrong shape.
    """
    label = version_label(shapes)
    for architecture in ARCHITECTURES.values():
        if architecture.label == label:
            return architecture.config(shapes, where)
    supported = ", ".join(architecture.label for architecture in ARCHITECTURES.values())
    if label is None:
        some = ", ".join(sorted(shapes)[:3]) or "none"
        raise UnsupportedError(
            f"{where}: expected the parameters of an RWKV model ({supported}), found tensors such as {some}"
        )
    raise UnsupportedError(f"{where}: expected a model of {supported}, found {label}, which is not supported yet")


def check_parameters(config: Config, shapes: Shapes, where: str) -> None:
    """Hold the tensors of a file against the parameter table of its architecture.

    Raises
    ------
    SpecError
        Naming everything that is missing, unexpected or of the wrong shape, at once.
    """
    table = config.num_layers * len(ARCHITECTURES[config.architecture].parameters(replace(config, num_layers=1)))
    if table > _RICH * len(shapes) + _POOR:
        raise SpecError(
            f"{where}: expected about {table} parameters for {config.num_layers} layers, got {len(shapes)}; "
            "the file is no whole, unchanged model"
        )
    expected = {spec.name: spec.shape for spec in ARCHITECTURES[config.architecture].parameters(config)}
    problems = [
        *(f"missing {name} {shape}" for name, shape in expected.items() if name not in shapes),
        *(f"unexpected {name} {shape}" for name, shape in shapes.items() if name not in expected),
        *(
            f"{name}: expected shape {shape}, got {tuple(shapes[name])}"
            for name, shape in expected.items()
            if name in shapes and tuple(shapes[name]) != tuple(shape)
        ),
    ]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise SpecError(f"{where}: {'; '.join(problems[:_NAMED])}{more}; the file is no whole, unchanged model")
