"""The model card of a Hugging Face folder: what the model is, where it comes from, and how exact it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rwkv_cy.formats.writers.base import ExportedModel, Outcome, StoredTensor
from rwkv_cy.tensors.rounding import Rounding, describe_rounding

__all__ = ["model_card"]

_HEADER = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- rwkv
---
"""


def model_card(model: ExportedModel, tensors: Sequence[StoredTensor], outcome: Outcome) -> str:
    """Return the text of README.md."""
    config = model.config
    parameters = sum(tensor.size for tensor in tensors)
    types = Counter(tensor.type.name for tensor in tensors)
    size = f"{config.num_layers} layers of width {config.d_model}, {config.vocab_size:,} tokens"
    lines = [
        _HEADER,
        f"# {_plain(model.name)}",
        "",
        f"{model.label}: {parameters:,} parameters, {size}. The tensors are in the layout of {model.layout.name}.",
        "",
        "| | |",
        "|---|---|",
        f"| source | `{_plain(outcome.source_name)}` ({outcome.source_format}) |",
        f"| SHA-256 of the source | `{outcome.source_sha256}` |",
        f"| types | {', '.join(f'{count} tensors in {name}' for name, count in sorted(types.items()))} |",
        f"| precision | {describe_rounding(outcome.rounding, len(tensors))} |",
        "",
        *_errors(tensors, outcome),
        *(f"- {_plain(warning)}" for warning in outcome.warnings),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _errors(tensors: Sequence[StoredTensor], outcome: Outcome) -> Iterator[str]:
    """Yield a table of the measured errors by kind of parameter."""
    if not outcome.rounding:
        return
    yield from (
        "Errors against the source, measured:",
        "",
        "| parameters | relative (RMS) | largest |",
        "|---|--:|--:|",
    )
    for kind in dict.fromkeys(tensor.kind for tensor in tensors):
        names = (tensor.name for tensor in tensors if tensor.kind == kind)
        errors = [outcome.rounding[name] for name in names if name in outcome.rounding]
        if errors:
            total = sum(errors, Rounding())
            yield f"| {kind.replace('_', '-')} | {total.relative:.2e} | {total.largest:.2e} |"
    yield ""


def _plain(text: str) -> str:
    """Return a name from a file without what Markdown or a terminal would act on."""
    return "".join(character if character.isprintable() and character not in "`|<>[]" else "?" for character in text)
