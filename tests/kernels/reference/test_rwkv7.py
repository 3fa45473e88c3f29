"""The reference of RWKV-7 against models that others trained and published."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.cases import reference_forward
from rwkv_cy.formats import open_checkpoint
from rwkv_cy.kernels.reference import layer_norm, matmul, rwkv7
from rwkv_cy.model.language_model import load

Array = np.ndarray


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
            heads, size = own["att.r_k"].shape
            state = {"att_xx": np.zeros(32), "ffn_xx": np.zeros(32), "att_kv": np.zeros((heads, size, size))}
            x = (
                x
                + rwkv7.time_mix(self.norm(f"ln{i}a", x), state, own, shared, eps=64e-5)
                + self.weights[f"rosa{i}.o.bias"]
            )
            x = x + rwkv7.channel_mix(self.norm(f"ln{i}b", x), state, own, shared)
        logits = matmul(self.weights["o.weight"], self.norm("lno", x)) + self.weights["o.bias"]
        return "".join(self.TOKENS[token] for token in logits.argmax(axis=-1))


def test_a_trained_model_reverses_digits(shared: Path) -> None:
    model = ReversingModel(shared / "models" / "reverse-L2-rwkv7.pth")
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 20, 52):
        digits = "".join(rng.choice(list("0123456789"), count))
        text = f"{digits},{digits[::-1]}#"
        assert model.predictions(text)[count:-1] == text[count + 1 :]
