"""RWKV-7, the reference implementation and the compiled mixes, against published models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.cases import reference_forward
from rwkv_cy.architectures import ARCHITECTURES
from rwkv_cy.config import Config
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.kernels.reference import layer_norm, matmul, rwkv7
from rwkv_cy.model.language_model import load
from rwkv_cy.tensors.tensor import Parameter

Array = np.ndarray
Mix = Callable[[Array], Array]


def test_published_logits(shared: Path) -> None:
    model = load(shared / "models" / "tiny-rwkv-7v0-834K-FP32.bin")
    expected = np.fromfile(shared / "models" / "expected-logits-7v0-834K.bin", "<f4")
    logits, _ = reference_forward(model, list(b'"in'))
    assert np.abs(logits[-1] - expected).max() <= 2e-5 * np.abs(expected).max()


class ReversingModel:
    """The authors' toy that reverses digits: x += rwkv(ln a) + rosa(ln c); x += ffn(ln b), no ln0.

    The embedding of its rosa layers is all zero, so that of them only the bias of the output remains.
    """

    TOKENS = "0123456789,#"

    def __init__(self, path: Path) -> None:
        self.weights = {}
        with open_checkpoint(path) as source:
            for name in source.names():
                info = source.info(name)
                buffer = np.empty(info.size, np.float32)
                source.read_into(name, buffer)
                self.weights[name] = buffer.astype(np.float64).reshape(info.shape)
        assert not any(self.weights[f"rosa{i}.rosa_qkv.emb"].any() for i in (1, 2))

    def norm(self, name: str, x: Array) -> Array:
        return layer_norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], 1e-5)

    def mixes(self, layer: int, own: dict[str, Array], shared: dict[str, Array]) -> tuple[Mix, Mix]:
        """Return the two mixes of a layer, in the reference implementation."""
        heads, size = own["att.r_k"].shape
        state = {"att_xx": np.zeros(32), "ffn_xx": np.zeros(32), "att_kv": np.zeros((heads, size, size))}
        return (
            lambda x: rwkv7.time_mix(x, state, own, shared, eps=64e-5),
            lambda x: rwkv7.channel_mix(x, state, own, shared),
        )

    def predictions(self, text: str) -> str:
        """Return the most likely character after each one of `text`."""
        x = self.weights["e.weight"][[self.TOKENS.index(character) for character in text]]
        shared: dict[str, Array] = {}
        for i in (1, 2):
            own = {
                f"{ours}.{name.removeprefix(f'{theirs}{i}.')}": array
                for name, array in self.weights.items()
                for ours, theirs in (("att", "rwkv"), ("ffn", "ffn"))
                if name.startswith(f"{theirs}{i}.")
            }
            time_mix, channel_mix = self.mixes(i - 1, own, shared)
            x = x + time_mix(self.norm(f"ln{i}a", x)) + self.weights[f"rosa{i}.o.bias"]
            x = x + channel_mix(self.norm(f"ln{i}b", x))
        logits = matmul(self.weights["o.weight"], self.norm("lno", x)) + self.weights["o.bias"]
        return "".join(self.TOKENS[token] for token in logits.argmax(axis=-1))


class CompiledReversingModel(ReversingModel):
    """The same with the compiled mixes, in float32."""

    def mixes(self, layer: int, own: dict[str, Array], shared: dict[str, Array]) -> tuple[Mix, Mix]:
        size = own["att.r_k"].shape[1]
        ranks = {name: own[f"att.{name}1"].shape[1] for name in "wavg" if f"att.{name}1" in own}
        config = Config(architecture="rwkv7", d_model=32, num_layers=2, head_size=size, ranks=ranks)
        architecture = ARCHITECTURES["rwkv7"]
        parameters = {name: Parameter(array.astype(np.float32), "f32") for name, array in own.items()}
        time_mix = architecture.time_mix(config, layer, parameters, 1.0, "f32")
        channel_mix = architecture.channel_mix(config, layer, parameters, 1.0, "f32")
        state = np.zeros(architecture.state_offsets(config)["end"], np.float32)

        def run_time_mix(x: Array) -> Array:
            # The first layer writes the values that the second one reads.
            values = shared.setdefault("values", np.zeros((len(x), 32), np.float32))
            return np.asarray(time_mix.forward(x.astype(np.float32), state, 2, values), np.float64)

        return run_time_mix, lambda x: np.asarray(channel_mix.forward(x.astype(np.float32), state), np.float64)


@pytest.mark.parametrize("kind", [ReversingModel, CompiledReversingModel])
def test_a_trained_model_reverses_digits(shared: Path, kind: type[ReversingModel]) -> None:
    model = kind(shared / "models" / "reverse-L2-rwkv7.pth")
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 20, 52):
        digits = "".join(rng.choice(list("0123456789"), count))
        text = f"{digits},{digits[::-1]}#"
        assert model.predictions(text)[count:-1] == text[count + 1 :]
