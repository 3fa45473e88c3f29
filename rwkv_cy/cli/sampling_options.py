"""Options that say how tokens are chosen, for every command that generates text."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rwkv_cy.cli.arguments import integer, real
from rwkv_cy.errors import TokenError

if TYPE_CHECKING:
    from rwkv_cy.model.language_model import LanguageModel
    from rwkv_cy.text import SamplingKeywords

__all__ = ["add_sampling_options", "check_sampling_tokens", "sampling_keywords"]

#: Options whose names are those of SamplingKeywords.
_NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "penalty_decay",
    "repetition_penalty",
    "repetition_window",
    "no_repeat_ngram",
    "order",
)
#: The limit of rwkv_cy.text.sampling, which needs NumPy.
_MOST_BIAS = 1e6


def add_sampling_options(parser: argparse.ArgumentParser, defaults_of: str = "") -> None:
    """Add the options that :func:`sampling_keywords` reads.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    defaults_of : str
        What sets the defaults, as ``"the model's format"``; the options are then None. ``""`` for SamplingOptions.
    """

    def add(
        group: argparse._ActionsContainer, name: str, default: float, text: str, note: str = "", **more: Any
    ) -> None:
        shown = defaults_of or f"{default:g}{note}"
        group.add_argument(name, default=None if defaults_of else default, help=f"{text} (default: {shown})", **more)

    add(parser, "--temperature", 1.0, "0 is greedy", type=real(0), metavar="T")
    add(parser, "--top-p", 0.85, "nucleus (top-p) threshold", type=real(0, 1), metavar="P")
    add(parser, "--top-k", 0, "choose among the K likeliest tokens", ", all", type=integer(0), metavar="K")
    rules = parser.add_argument_group("rules", "explained in docs/sampling.md")
    for name, kind, default, text in (
        ("--presence-penalty", real(-_MOST_BIAS, _MOST_BIAS), 0.0, "subtracted from logits of earlier tokens"),
        ("--frequency-penalty", real(-_MOST_BIAS, _MOST_BIAS), 0.0, "the same, times their count"),
        ("--penalty-decay", real(0, 1), 0.996, "factor of each count at every token"),
        ("--repetition-penalty", real(0.01, 100), 1.0, "divides logits of earlier tokens"),
    ):
        add(rules, name, default, text, type=kind, metavar="X")
    add(rules, "--repetition-window", 0, "tokens it looks back", ", all", type=integer(0), metavar="N")
    add(rules, "--no-repeat-ngram", 0, "no N tokens twice", ", off", type=integer(0), metavar="N")
    rules.add_argument(
        "--ban",
        type=integer(0),
        action="append",
        default=[],
        metavar="TOKEN",
        help="never this token id; repeatable",
    )
    rules.add_argument(
        "--logit-bias", type=_bias, action="append", default=[], metavar="TOKEN=X", help="add X to a logit; repeatable"
    )
    rules.add_argument(
        "--order",
        choices=("temperature-first", "rwkv"),
        default="temperature-first",
        help="apply temperature before top-p, or after it as the rwkv package does",
    )


def _bias(text: str) -> tuple[int, float]:
    token, equals, bias = text.partition("=")
    try:
        if not equals:
            raise ValueError
        number, value = int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected TOKEN=X such as 10=-2.5, got {text!r}") from None
    if not abs(value) <= _MOST_BIAS:
        raise argparse.ArgumentTypeError(f"expected a number from {-_MOST_BIAS:g} to {_MOST_BIAS:g}, got {text!r}")
    return number, value


def sampling_keywords(arguments: argparse.Namespace) -> SamplingKeywords:
    """Return the sampling settings that were given, or all of them if the options have defaults."""
    given: dict[str, Any] = {name: value for name in _NAMES if (value := getattr(arguments, name)) is not None}
    keywords: SamplingKeywords = {
        **given,  # type: ignore[typeddict-item]
        "banned_tokens": arguments.ban,
        "logit_bias": dict(arguments.logit_bias),
    }
    return keywords


def check_sampling_tokens(arguments: argparse.Namespace, model: LanguageModel) -> None:
    """Raise TokenError, in the name of the option, for a token id that is outside the vocabulary."""
    sizes = model.vocab_size, (model.tokenizer or model).vocab_size
    for option, tokens, size in (
        ("--ban", arguments.ban, min(sizes)),
        ("--logit-bias", [token for token, _ in arguments.logit_bias], min(sizes)),
        ("--stop-token", getattr(arguments, "stop_token", None) or (), max(sizes)),
    ):
        wrong = next((token for token in tokens if not 0 <= token < size), None)
        if wrong is not None:
            raise TokenError(f"{option} {wrong}: expected a token id from 0 to {size - 1}, as the vocabulary has")
