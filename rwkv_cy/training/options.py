"""What a training run is told: lengths, learning rates, the optimiser's numbers, a seed."""

from __future__ import annotations

from typing import Any

from rwkv_cy.errors import ConfigError
from rwkv_cy.records import asdict, dataclass, fields

__all__ = ["SAMPLING", "TrainingOptions"]

#: How sequences are taken from the documents: windows of a fixed length, or whole documents.
SAMPLING = ("windows", "documents")

#: Smallest and largest values of the options; a number that excludes a bound is beside it.
_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10**9),
    "batch_size": (1, 65_536),
    "context": (2, 1 << 20),
    "learning_rate": (0, 10),
    "final_learning_rate": (0, 10),
    "warmup_steps": (0, 10**9),
    "weight_decay": (0, 10),
    "beta1": (0, 0.9999999),
    "beta2": (0, 0.9999999),
    "epsilon": (1e-45, 1),
    "clip": (1e-9, 1e9),
    "l2wrap": (0, 1),
    "seed": (0, 2**63 - 1),
    "checkpoint_every": (1, 10**9),
    "evaluate_every": (1, 10**9),
}


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a training run. The defaults of the optimiser are those of the RWKV authors.

    Attributes
    ----------
    steps : int
        Updates of the parameters. A run goes on with another number of them, and the learning rates of that.
    batch_size : int, default 8
        Sequences in an update.
    context : int, default 512
        Most tokens of a sequence whose next token is learned.
    learning_rate, final_learning_rate : float
        After the warm-up, and at the end of a cosine.
    warmup_steps : int, default 10
        Steps over which the learning rate rises from a hundredth.
    weight_decay : float, default 0.01
        Of matrices only.
    beta1, beta2, epsilon : float, default 0.9, 0.99 and 1e-18
        Of AdamW.
    clip : float, default 1.0
        Largest norm of all gradients together.
    l2wrap : float, default 1e-4
        Strength of L2Wrap, which keeps the largest logit of each token near 0.
    sampling : {"windows", "documents"}
        Windows of `context` tokens from everywhere, in a new random order in each epoch; or whole documents, of which
        each piece of `context` tokens is a sequence.
    seed : int, default 0
        Of the order of the data, and of initial values. Same seed, same result.
    checkpoint_every, evaluate_every : int, default 100
        Steps between checkpoints, and between measurements on held-out text.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    steps: int
    batch_size: int = 8
    context: int = 512
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 10
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-18
    clip: float = 1.0
    l2wrap: float = 1e-4
    sampling: str = "windows"
    seed: int = 0
    checkpoint_every: int = 100
    evaluate_every: int = 100

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            whole = isinstance(getattr(type(self), name, 0), int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                kind = "an integer" if whole else "a number"
                raise ConfigError(f"{name}: expected {kind}, got {value!r}")
            if not least <= value <= most:
                raise ConfigError(f"{name}: expected {_shown(least)} to {_shown(most)}, got {_shown(value)}")
        if self.sampling not in SAMPLING:
            raise ConfigError(f"sampling: expected one of {', '.join(SAMPLING)}, got {self.sampling!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the options, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingOptions:
        """Return the options that :meth:`to_dict` described.

        Raises
        ------
        ConfigError
            If a name is unknown, or a value is missing or out of its range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            wrong = sorted(names ^ set(values))
            raise ConfigError(f"training options: expected exactly {', '.join(sorted(names))}; differ in {wrong}")
        return cls(**values)
