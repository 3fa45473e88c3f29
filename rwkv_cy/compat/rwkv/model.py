"""RWKV: a model with the constructor, the attributes and the ``forward`` of the authors' package."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rwkv_cy.compat.rwkv.arrays import as_tensor, float32_type
from rwkv_cy.compat.rwkv.states import StateList, state_of
from rwkv_cy.compat.rwkv.strategy import Strategy
from rwkv_cy.errors import UnsupportedError
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.model.state import State

__all__ = ["RWKV"]

_VERSION = re.compile(r"\d+(?:\.\d+)?")


class RWKV:
    """A model behind the API of the authors' package.

    Parameters
    ----------
    model : path-like
        A file of any format that :func:`rwkv_cy.load` reads, with or without its ``.pth``.
    strategy : str
        ``"cpu fp32"`` uses the matrices as they are stored. ``fp16`` and ``bf16`` round float32 matrices to that type,
        and ``i8`` and ``i4`` quantize matrices that are not; all computing is in float32. A warning tells what a
        strategy says that has no meaning on one CPU.
    verbose : bool, default True
        Has no effect: nothing is printed.
    convert_and_save_and_exit : str, optional
        Not supported: ``rwkv-cy convert`` writes model files.

    Attributes
    ----------
    language_model : LanguageModel
        The model of this package.
    args : types.SimpleNamespace
        MODEL_NAME, strategy_string, n_layer, n_embd, n_att, n_ffn, vocab_size; n_head and head_size where there are
        heads.
    version : float
        Version of RWKV.

    Raises
    ------
    ConfigError
        If the strategy is not one.
    UnsupportedError
        If `convert_and_save_and_exit` is given.
    StorageError, FormatError, NotEnoughMemoryError
        As for :func:`rwkv_cy.load`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        strategy: str,
        verbose: bool = True,
        convert_and_save_and_exit: str | None = None,
    ) -> None:
        if convert_and_save_and_exit is not None:
            raise UnsupportedError(
                "convert_and_save_and_exit: not supported; write a model file with rwkv-cy convert, and load that"
            )
        parsed = Strategy.parse(strategy)
        path = _path(model)
        self.language_model = _load(path, parsed)
        config = self.language_model.config
        self.args = SimpleNamespace(
            MODEL_NAME=path,
            strategy_string=strategy,
            n_layer=config.num_layers,
            n_embd=config.d_model,
            n_att=config.d_att,
            n_ffn=config.d_ffn,
            vocab_size=config.vocab_size,
        )
        if config.head_size:
            self.args.n_head, self.args.head_size = config.d_att // config.head_size, config.head_size
        version = _VERSION.search(config.architecture)
        self.version = float(version[0]) if version else 0.0

    @property
    def strategy(self) -> list[SimpleNamespace]:
        """Where each layer and the head are, and in which type their activations: the CPU, float32."""
        atype = float32_type()
        place = {"device": "cpu", "atype": atype, "wtype": atype, "stream": False}
        return [SimpleNamespace(**place) for _ in range(self.args.n_layer + 1)]

    def generate_zero_state(self) -> StateList:
        """Return the state before the first token, which None stands for; of a state-tuned model, the tuned one."""
        return StateList(self.language_model.initial_state())

    def forward(
        self, tokens: Sequence[int] | int, state: Sequence[Any] | State | None, full_output: bool = False
    ) -> tuple[Any, StateList]:
        """Run tokens, and return logits and the state after them.

        Parameters
        ----------
        tokens : list of int, or int
        state : list of arrays or None
            The result of an earlier call, or a list of arrays in its layout. It is not changed: the same list may be
            given again, to continue in another way.
        full_output : bool, default False
            Return the logits after every token, if there are several.

        Returns
        -------
        logits : torch.Tensor or Tensor
            float32 [vocab_size], or [len(tokens), vocab_size] with `full_output`. A torch tensor if the process has
            imported torch, else a NumPy array with the methods of one that scripts use.
        state : StateList
            Arrays of the same kind. With a vector state: of each layer ``att_xx, att_aa, att_bb, att_pp, ffn_xx``;
            with heads: ``att_xx, att_kv, ffn_xx``.

        Raises
        ------
        TokenError, StateError, NumericalError
            As for :meth:`rwkv_cy.LanguageModel.forward`.
        """
        every = full_output and not isinstance(tokens, int) and len(tokens) > 1
        before = state_of(self.language_model, state)
        logits, after = self.language_model.forward(tokens, before, all_logits=every)
        return as_tensor(logits), StateList(after)

    def __call__(
        self, tokens: Sequence[int] | int, state: Sequence[Any] | State | None, full_output: bool = False
    ) -> tuple[Any, StateList]:
        """Return :meth:`forward` of the same arguments."""
        return self.forward(tokens, state, full_output)


def _path(model: str | os.PathLike[str]) -> str:
    """Return the path of a model that may lack its ``.pth``."""
    name = os.fspath(model).strip()
    with_suffix = f"{name}.pth"
    return with_suffix if not Path(name).exists() and Path(with_suffix).exists() else name


def _load(path: str, strategy: Strategy) -> LanguageModel:
    """Load a model in the type that a strategy stands for, and warn of what is ignored."""
    model = load(path)
    dtype = strategy.conversion(model.parameters["head.weight"].dtype)
    if dtype is not None:
        model.close()
        model = load(path, dtype=dtype)
    warning = strategy.warning(model.parameters["head.weight"].dtype)
    if warning is not None:
        warnings.warn(warning, RuntimeWarning, stacklevel=3)
    return model
