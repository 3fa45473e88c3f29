"""rwkv_cy.compat.rwkv against the authors' package on torch: logits, states, choices of tokens, and a script."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from checkpoints import random_checkpoint
from contracts.cases import CONFIGS
from rwkv7_shapes import SMALL_7A_32
from rwkv_cy.compat.rwkv.model import RWKV
from rwkv_cy.compat.rwkv.rwkv_tokenizer import TRIE_TOKENIZER
from rwkv_cy.compat.rwkv.states import StateList
from rwkv_cy.compat.rwkv.utils import PIPELINE, PIPELINE_ARGS
from rwkv_cy.config import Config
from rwkv_cy.files.vocabulary_files import packaged_vocabulary
from rwkv_package import PackageModel, assert_close

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]

torch = pytest.importorskip("torch", reason="compares with the rwkv package on torch")
theirs_utils = pytest.importorskip("rwkv.utils", reason="compares with the rwkv package")

#: Its RWKV-4 reads several tokens only if the time mix is as wide as the model, its RWKV-7a has tables of rank 32.
PAIRS = {
    **{name: CONFIGS[name] for name in ("rwkv5.0", "rwkv5.1", "rwkv5.2", "rwkv6", "rwkv7")},
    "rwkv4": Config(d_model=64, num_layers=3, vocab_size=90, d_ffn=192),
    "rwkv7a": next(iter(SMALL_7A_32.values())),
}
#: As many ids as World has, so that the package's own tokenizer fits.
WORLD = Config(d_model=32, num_layers=2, vocab_size=65_536)
SAMPLINGS = [(1.0, 0.85, 0), (1.0, 0.3, 0), (0.7, 0.9, 40), (1.5, 0.99, 7), (0.0, 0.85, 0), (1.0, 0.0, 0)]

#: In the manner of the package's demos: text with a callback, then logits and a state by hand.
SCRIPT = """
import copy
import numpy as np
from torch.nn import functional as F
from PACKAGE.model import RWKV
from PACKAGE.utils import PIPELINE, PIPELINE_ARGS

model = RWKV(model=PATH, strategy="cpu fp32")
pipeline = PIPELINE(model, "rwkv_vocab_v20230424")
np.random.seed(5)
args = PIPELINE_ARGS(temperature=1.2, top_p=0.5, top_k=100, alpha_frequency=0.25, alpha_presence=0.25,
                     alpha_decay=0.996, token_ban=[0], token_stop=[], chunk_len=3)
pieces = []
text = pipeline.generate("The quick brown fox", token_count=40, args=args, callback=pieces.append)

out, state = model.forward([187, 510], None)
kept = copy.deepcopy(state)
out, state = model.forward([1563], state)
out, state = model.forward([310, 247], state)
every, _ = model.forward([1563, 310, 247], copy.deepcopy(kept), full_output=True)
occurrence = {5: 1.0}
for n in occurrence:
    out[n] -= 0.2 + occurrence[n] * 0.3
out[0] -= 1e10
probs = F.softmax(out.float(), dim=-1)
token = pipeline.sample_logits(out, temperature=1.0, top_p=0.7)
shapes = [tuple(array.shape) for array in state]
"""


class Pair:
    """The same model in the package and here."""

    def __init__(self, folder: Path, config: Config) -> None:
        parameters = random_checkpoint(config, seed=3, optional=False)
        self.theirs = PackageModel(folder, parameters)._model
        self.path = folder / "model"
        self.ours = RWKV(str(self.path), "cpu fp32")


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), PAIRS[request.param])


@pytest.fixture(scope="module", autouse=True)
def _without_cuda() -> Any:
    with mock.patch.dict(os.environ, {"RWKV_CUDA_ON": "0"}):
        yield


def check(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for mine, their in zip(ours, theirs, strict=True):
        assert isinstance(mine, torch.Tensor)
        assert mine.dtype == their.dtype
        assert_close(mine.numpy(), their.numpy())


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tokens", [[5], list(range(3, 40))])
def test_logits_and_states(pair: Pair, tokens: list[int], full: bool) -> None:
    expected, their_state = pair.theirs.forward(tokens, None, full_output=full)
    logits, state = pair.ours.forward(tokens, None, full_output=full)
    assert logits.dtype == expected.dtype
    assert_close(logits.numpy(), expected.numpy())
    check(state, their_state)


def test_each_continues_the_others_state(pair: Pair) -> None:
    _, their_state = pair.theirs.forward([4, 5, 6], None)
    _, state = pair.ours.forward([4, 5, 6], None)
    expected, after = pair.theirs.forward([7, 8], copy.deepcopy(their_state))
    for logits, final in (
        pair.ours.forward([7, 8], their_state),
        pair.theirs.forward([7, 8], [array.clone() for array in state]),
    ):
        assert_close(logits.numpy(), expected.numpy())
        check(list(final), list(after))
    # Not a number changes on the way in and out again.
    _, listed = pair.ours.forward([9], their_state)
    again = pair.ours.forward([9], [array.clone() for array in their_state])[1]
    assert all(torch.equal(a, b) for a, b in zip(listed, again, strict=True))


def test_a_state_in_half_precision(pair: Pair) -> None:
    _, state = pair.ours.forward([4, 5, 6], None)
    halves = [array.bfloat16() for array in state]
    widened = [array.float() for array in halves]
    assert torch.equal(pair.ours.forward([7], halves)[0], pair.ours.forward([7], widened)[0])


def test_the_state_shares_its_memory(pair: Pair) -> None:
    _, state = pair.ours.forward([4, 5, 6], None)
    assert isinstance(state, StateList)
    state[0].zero_()
    assert state.state is not None
    assert not state.state.layers[0]["att_xx"].any()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("world"), WORLD)


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), SAMPLINGS)
def test_the_same_choices(world: Pair, temperature: float, top_p: float, top_k: int) -> None:
    name = "rwkv_vocab_v20230424"
    ours, theirs = PIPELINE(world.ours, name), theirs_utils.PIPELINE(world.theirs, name)
    random = np.random.default_rng(0)
    for seed in range(12):
        logits = torch.from_numpy((2 * random.standard_normal(65_536)).astype(np.float32))
        chosen = []
        for pipeline in (ours, theirs):
            np.random.seed(seed)
            chosen.append(pipeline.sample_logits(logits.clone(), temperature, top_p, top_k))
        assert chosen[0] == chosen[1]


def test_the_same_arguments() -> None:
    assert vars(PIPELINE_ARGS()) == vars(theirs_utils.PIPELINE_ARGS())


def test_the_same_tokenizer(world: Pair) -> None:
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER as THEIRS

    path = packaged_vocabulary()
    ours, theirs = TRIE_TOKENIZER(path), THEIRS(str(path))
    for text in ("Hello, world!\n\n", "héé 你好 🚀", "  \t123"):
        tokens = theirs.encode(text)
        assert ours.encode(text) == tokens
        assert ours.decode(tokens) == theirs.decode(tokens) == text
        for end in range(len(tokens)):
            assert ours.decode(tokens[:end]) == theirs.decode(tokens[:end])
    for tokens in ([0], [228], [33, 0], [65_535]):
        assert ours.decode(tokens) == theirs.decode(tokens) == "\ufffd"
    assert ours.idx2token == theirs.idx2token
    refined = PIPELINE(world.ours, str(path)).refine_context
    for text in (" a \n\n b\u3000\r\nc ", "", "\n x"):
        assert refined(text) == theirs_utils.PIPELINE(None, "rwkv_vocab_v20230424").refine_context(text)


def test_a_script_with_another_import(world: Pair) -> None:
    results = []
    for package in ("rwkv", "rwkv_cy.compat.rwkv"):
        names: dict[str, Any] = {}
        source = SCRIPT.replace("PACKAGE", package).replace("PATH", repr(str(world.path)))
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(source, package, "exec"), names)
        results.append(names)
    theirs, ours = results
    assert ours["text"] == theirs["text"]
    assert len(ours["text"]) > 40
    for name in ("pieces", "token", "shapes"):
        assert ours[name] == theirs[name], name
    for name in ("out", "every", "probs"):
        assert_close(ours[name].detach().cpu().numpy(), theirs[name].detach().cpu().numpy())
