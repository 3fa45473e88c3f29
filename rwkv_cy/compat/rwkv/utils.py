"""PIPELINE and PIPELINE_ARGS: text in and out as the authors' package has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rwkv_cy.compat.rwkv.arrays import as_array
from rwkv_cy.compat.rwkv.rwkv_tokenizer import PackageTokenizer
from rwkv_cy.errors import GenerationError, TokenizerError
from rwkv_cy.files.vocabulary_files import VOCABULARY_FILE, WORLD_SIZE
from rwkv_cy.records import dataclass, field
from rwkv_cy.text import Tokenizer, find_tokenizer

__all__ = ["PIPELINE", "PIPELINE_ARGS"]

_WORLD = VOCABULARY_FILE.removesuffix(".txt")
#: Tokens of spaces and digits are not penalized for having occurred.
_FREE = " \t0123456789"
_REPLACEMENT = "\ufffd"


@dataclass
class PIPELINE_ARGS:  # noqa: N801 (the authors' name)
    """Settings of :meth:`PIPELINE.generate`.

    Attributes
    ----------
    temperature, top_p, top_k
        As for :meth:`PIPELINE.sample_logits`.
    alpha_frequency, alpha_presence : float
        Subtracted from the logit of a token for each time it has occurred, and once.
    alpha_decay : float
        Factor of the occurrences at each token.
    token_ban : sequence of int
        Tokens that are never chosen.
    token_stop : sequence of int
        Tokens that end the text.
    chunk_len : int
        Tokens of the prompt that are read at a time.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    alpha_frequency: float = 0.2
    alpha_presence: float = 0.2
    alpha_decay: float = 0.996
    token_ban: Sequence[int] = field(default_factory=list)
    token_stop: Sequence[int] = field(default_factory=list)
    chunk_len: int = 256


class PIPELINE:
    """A model with its tokenizer.

    Parameters
    ----------
    model : RWKV or None
        Runs texts; None is enough for the tokenizer alone.
    WORD_NAME : str
        ``"rwkv_vocab_v20230424"``, the World vocabulary: that of the model if its file has one, else that of an
        installed ``rwkv`` package. Or the path of a vocabulary or a ``tokenizer.json``.

    Raises
    ------
    TokenizerError, StorageError, MissingDependencyError
        As for :func:`rwkv_cy.text.find_tokenizer`.
    """

    def __init__(self, model: Any, WORD_NAME: str) -> None:  # noqa: N803 (the authors' name)
        self.model = model
        self.tokenizer = PackageTokenizer(_tokenizer(model, WORD_NAME))

    def refine_context(self, context: str) -> str:
        """Return a text with a line end in front, its lines stripped and its empty lines left out."""
        lines = (line.strip().strip("\u3000").strip("\r") for line in context.strip().split("\n"))
        return "\n" + "\n".join(line for line in lines if line).strip()

    def encode(self, x: str) -> list[int]:
        """Return the ids of a text."""
        return self.tokenizer.encode(x)

    def decode(self, x: Iterable[int]) -> str:
        """Return the text of ids; one U+FFFD if they are not valid UTF-8 together."""
        return self.tokenizer.decode(x)

    def sample_logits(self, logits: Any, temperature: float = 1.0, top_p: float = 0.85, top_k: int = 0) -> int:
        """Choose a token with NumPy's global random numbers.

        Parameters
        ----------
        logits : array or tensor of [vocab_size]
        temperature : float, default 1.0
            Exponent ``1 / temperature`` of the probabilities, after `top_p` and `top_k`; 0 takes the likeliest token.
        top_p : float, default 0.85
            Keep the likeliest tokens until their probabilities sum to this, and those as likely as the last of them.
        top_k : int, default 0
            Keep that many of the likeliest; 0 keeps all.

        Returns
        -------
        int

        Raises
        ------
        GenerationError
            If the largest logit is not finite.
        """
        if temperature == 0:
            temperature, top_p = 1.0, 0.0
        values = as_array(logits).astype(np.float32)
        highest = values.max(initial=-np.inf)
        if not np.isfinite(highest):
            raise GenerationError(f"logits: expected the largest to be finite, got {highest}")
        odds = np.exp(values - highest)
        probs = odds / odds.sum()
        rising = np.argsort(probs)
        falling = probs[rising[::-1]]
        reached = np.cumsum(falling) >= top_p
        # Rounded, all of them may sum to less than a top_p of 1.
        if reached.any():
            probs[probs < falling[reached.argmax()]] = 0
        if 0 < int(top_k) < len(probs):
            probs[rising[: -int(top_k)]] = 0
        if temperature != 1.0:
            probs = probs ** (1.0 / temperature)
        return int(np.random.choice(len(probs), p=probs / np.sum(probs)))

    def generate(
        self,
        ctx: str,
        token_count: int = 100,
        args: PIPELINE_ARGS | None = None,
        callback: Callable[[str], object] | None = None,
        state: Sequence[Any] | None = None,
    ) -> str:
        """Continue a text.

        Parameters
        ----------
        ctx : str
            The text; at least one token.
        token_count : int, default 100
            The most tokens to generate.
        args : PIPELINE_ARGS, optional
            Settings.
        callback : callable, optional
            Called with each piece of text as it comes.
        state : list of arrays, optional
            State to start from; not changed.

        Returns
        -------
        str
            What was generated.

        Raises
        ------
        GenerationError
            If the text is empty.
        """
        options = PIPELINE_ARGS() if args is None else args
        tokens = self.encode(ctx)
        if not tokens:
            raise GenerationError("ctx: expected a text of at least one token, got an empty one")
        pending: list[int] = []
        pieces: list[str] = []
        occurrence: dict[int, float] = {}
        for _ in range(token_count):
            for start in range(0, len(tokens), options.chunk_len):
                logits, state = self.model.forward(tokens[start : start + options.chunk_len], state)
            token = self._choose(as_array(logits), occurrence, options)
            if token in options.token_stop:
                break
            occurrence = {number: times * options.alpha_decay for number, times in occurrence.items()}
            occurrence[token] = occurrence.get(token, 0.0) + (self.decode([token]) not in _FREE)
            tokens = [token]
            pending.append(token)
            piece = self.decode(pending)
            if _REPLACEMENT not in piece:  # a character may be spread over several tokens
                if callback is not None:
                    callback(piece)
                pieces.append(piece)
                pending = []
        return "".join(pieces)

    def _choose(self, logits: Any, occurrence: dict[int, float], options: PIPELINE_ARGS) -> int:
        """Choose the next token; `logits` is changed."""
        logits[list(options.token_ban)] = -np.inf
        for token, times in occurrence.items():
            logits[token] -= options.alpha_presence + times * options.alpha_frequency
        return self.sample_logits(logits, options.temperature, options.top_p, options.top_k)


def _tokenizer(model: Any, name: str) -> Tokenizer:
    """Return the tokenizer that a script names."""
    if name == "cl100k_base":
        raise TokenizerError(f"{name}: not supported; name {_WORLD} or the path of a vocabulary or tokenizer.json")
    if name != _WORLD:
        return find_tokenizer(name)
    own: Tokenizer | None = getattr(getattr(model, "language_model", None), "tokenizer", None)
    return own if own is not None and own.kind == "world" and own.vocab_size == WORLD_SIZE else find_tokenizer("world")
