"""The API of the authors' package, without torch: states in its layout, strategies, and text through PIPELINE."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS, tokens_for
from pages import ROOT, run_python
from rwkv_cy.compat.rwkv.arrays import Tensor, as_array
from rwkv_cy.compat.rwkv.model import RWKV
from rwkv_cy.compat.rwkv.rwkv_tokenizer import TRIE_TOKENIZER, PackageTokenizer
from rwkv_cy.compat.rwkv.states import StateList, state_of
from rwkv_cy.compat.rwkv.strategy import Strategy
from rwkv_cy.compat.rwkv.utils import PIPELINE, PIPELINE_ARGS
from rwkv_cy.errors import ConfigError, GenerationError, StateError, TokenizerError, UnsupportedError
from rwkv_cy.text import WorldTokenizer, load_tokenizer
from text.tokenizers.test_huggingface import with_token

pytestmark = pytest.mark.skipif("torch" in sys.modules, reason="tests arrays without torch, which is imported")

DEMO = str(ROOT / "data" / "kjv")  # scripts leave the .pth out


@pytest.fixture(scope="module")
def model() -> RWKV:
    return RWKV(model=DEMO, strategy="cpu fp32")


@pytest.fixture(scope="module")
def pipeline(model: RWKV) -> PIPELINE:
    return PIPELINE(model, "bytes")


@pytest.mark.parametrize("name", CONFIGS)
def test_states_and_their_lists_are_the_same_numbers(tmp_path: Path, name: str) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", random_checkpoint(CONFIGS[name]))
    model = RWKV(path, "cpu fp32")
    own = model.language_model
    tokens = tokens_for(own, 12)
    logits, listed = model.forward(tokens, None)
    expected, state = own.forward(tokens)
    assert logits.numpy().tobytes() == expected.tobytes()
    assert listed.state == state
    assert len(listed) == own.config.num_layers * len(state.fields)
    cloned = [array.clone() for array in listed]
    restored = state_of(own, cloned)
    assert restored == state
    names = [
        entry for entry in ("att_xx", "att_kv", "att_aa", "att_bb", "att_pp", "ffn_xx") if entry in state.layers[0]
    ]
    for i, layer in enumerate(state.layers):
        for entry, array in zip(names, listed[len(names) * i :], strict=False):
            # The package has RWKV-5's and RWKV-6's heads as [head, key, value].
            swapped = entry == "att_kv" and name[:5] in ("rwkv5", "rwkv6")
            assert array.tobytes() == (layer[entry].swapaxes(1, 2) if swapped else layer[entry]).tobytes()


def test_a_state_is_not_changed_and_may_be_used_again(model: RWKV) -> None:
    _, state = model.forward([1, 2, 3], None)
    before = copy.deepcopy(state)
    first, _ = model.forward([4], state)
    again, _ = model.forward([4], state)
    assert first.tobytes() == again.tobytes()
    assert isinstance(before, StateList)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(state, before, strict=True))
    assert before.state is not None
    assert not np.shares_memory(before.state.data, state.state.data)  # type: ignore[union-attr]


def test_what_a_script_writes_to_a_state_is_used(model: RWKV) -> None:
    _, state = model.forward([1, 2, 3], None)
    zero = model.generate_zero_state()
    expected, _ = model.forward([7], None)
    for array, initial in zip(state, zero, strict=True):
        array[...] = initial
    assert model.forward([7], state)[0].tobytes() == expected.tobytes()
    _, state = model.forward([1, 2, 3], None)
    for i, initial in enumerate(zero):
        state[i] = initial
    assert state.state is None
    assert model.forward([7], state)[0].tobytes() == expected.tobytes()
    assert isinstance(copy.deepcopy(state), list)


def test_a_state_through_a_pickle_is_a_plain_list(model: RWKV) -> None:
    _, state = model.forward([1, 2, 3], None)
    restored = pickle.loads(pickle.dumps(state))
    assert type(restored) is list
    assert model.forward([4], restored)[0].tobytes() == model.forward([4], state)[0].tobytes()
    assert model.forward([4], state.state)[0].tobytes() == model.forward([4], state)[0].tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state[:-1], "expected a list of .* arrays .att_xx, att_aa, att_bb, att_pp, ffn_xx of each"),
        (lambda state: 5, "expected a list of .* got int"),
        (
            lambda state: [state[0][:3], *state[1:]],
            r"state\[0\]: expected att_xx of layer 0, numbers of shape \(128,\)",
        ),
        (lambda state: [*state[:-1], None], r"ffn_xx of layer \d+, .* got \(\) of object"),
        (lambda state: [*state[:-1], [[1], [1, 2]]], "got list"),
    ],
)
def test_a_list_that_is_not_a_state(model: RWKV, change: object, message: str) -> None:
    _, state = model.forward([1], None)
    with pytest.raises(StateError, match=message):
        model.forward([1], change(list(state)))  # type: ignore[operator]


def test_logits_of_every_token(model: RWKV) -> None:
    tokens = [71, 111, 100]
    every, state = model.forward(tokens, None, full_output=True)
    last, same = model(tokens, None)
    assert every.shape == (3, model.args.vocab_size)
    assert every[-1].tobytes() == last.tobytes()
    assert state.state == same.state
    assert model.forward([71], None, full_output=True)[0].shape == model.forward(71, None)[0].shape == (256,)


def test_arrays_have_the_methods_of_tensors(model: RWKV) -> None:
    logits, state = model.forward([1, 2], None)
    assert isinstance(logits, Tensor)
    plain = logits.detach().cpu().float().numpy()
    assert type(plain) is np.ndarray
    assert logits.clone() is not logits
    assert not np.shares_memory(logits.clone(), logits)
    assert logits.to("cpu").to(dtype=np.float64).dtype == np.float64
    assert logits.cuda().requires_grad_(False).tolist() == plain.tolist()
    assert logits.argmax().item() == plain.argmax()
    swapped = logits.reshape(16, 16).T
    assert swapped.contiguous().flags.c_contiguous
    assert isinstance(copy.deepcopy(state[0]), Tensor)
    assert as_array(Bfloat16(plain)).tolist() == plain.tolist()


class Bfloat16:
    """What a torch tensor of bfloat16 does when NumPy asks for its numbers."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def detach(self) -> Bfloat16:
        return self

    cpu = detach

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("Got unsupported ScalarType BFloat16")

    def float(self) -> np.ndarray:
        return self.numbers


def test_what_a_script_reads_of_a_model(model: RWKV, tmp_path: Path) -> None:
    config = model.language_model.config
    assert (model.args.n_layer, model.args.n_embd, model.args.vocab_size) == (config.num_layers, config.d_model, 256)
    assert model.args.strategy_string == "cpu fp32"
    assert f"{DEMO}.pth" == model.args.MODEL_NAME
    assert model.version == 4.0
    assert len(model.strategy) == config.num_layers + 1
    assert {(layer.device, layer.atype) for layer in model.strategy} == {("cpu", np.float32)}
    path = write_safetensors(tmp_path / "model.safetensors", random_checkpoint(CONFIGS["rwkv5.2"]))
    heads = RWKV(path, "cpu fp32")
    assert heads.version == 5.2
    assert heads.args.n_head * heads.args.head_size == heads.args.n_att
    with pytest.raises(UnsupportedError, match="rwkv-cy convert"):
        RWKV(DEMO, "cpu fp32", convert_and_save_and_exit="new.pth")


@pytest.mark.parametrize(
    ("text", "dtype", "ignored"),
    [
        ("cpu fp32", "f32", 0),
        ("cpu bf16", "bf16", 0),
        ("cpu fp32i8", "q8", 0),
        ("cpu fp16i4", "q4", 0),
        ("cuda fp16", "f16", 1),
        ("cuda:0 fp16 *10 -> cuda:1 fp16 *8 -> cpu fp32", "f32", 2),
        ("cuda fp16i8 *20+", "q8", 2),
        ("cuda fp16 *10+->cpu fp32i8", "f16", 2),
    ],
)
def test_strategies(text: str, dtype: str, ignored: int) -> None:
    strategy = Strategy.parse(text)
    assert (strategy.dtype, len(strategy.ignored)) == (dtype, ignored)
    assert (strategy.warning("f16") is None) == (ignored == 0)


@pytest.mark.parametrize("text", ["", "cpu", "cpu fp8", "tpu fp16", "cpu fp32 -> ", "cuda fp16 *x"])
def test_what_is_not_a_strategy(text: str) -> None:
    with pytest.raises(ConfigError, match=f'such as "cpu fp32" .* got {re.escape(repr(text))}'):
        RWKV(DEMO, text)


@pytest.mark.parametrize(
    ("text", "stored", "converted"),
    [
        ("cpu fp32", "bf16", None),
        ("cuda fp16", "bf16", None),
        ("cuda fp16", "f32", "f16"),
        ("cpu fp32i8", "f16", "q8"),
        ("cpu fp32i8", "q4", None),
        ("cpu fp32i4", "q8", None),
        ("cpu fp32i4", "bf12", "q4"),
    ],
)
def test_matrices_never_get_more_bits(text: str, stored: str, converted: str | None) -> None:
    assert Strategy.parse(text).conversion(stored) == converted


def test_a_strategy_that_says_more_than_one_cpu_can_do(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", random_checkpoint(CONFIGS["rwkv4"]))
    expected = r"'cuda fp16i8 \*2 -> cpu fp32i8': ignored cuda: .* CPU; numbers of layers: .*; the matrices are q8"
    with pytest.warns(RuntimeWarning, match=expected):
        model = RWKV(str(path), "cuda fp16i8 *2 -> cpu fp32i8", verbose=False)
    assert model.language_model.parameters["head.weight"].dtype == "q8"


def test_generate(pipeline: PIPELINE) -> None:
    pieces: list[str] = []
    args = PIPELINE_ARGS(temperature=0, alpha_frequency=0, alpha_presence=0, chunk_len=5)
    text = pipeline.generate("In the beginning", token_count=30, args=args, callback=pieces.append)
    own = pipeline.model.language_model.generate("In the beginning", max_tokens=30, temperature=0)
    assert text == "".join(pieces) == "".join(own)
    _, state = pipeline.model.forward(pipeline.encode("In the begin"), None)
    assert pipeline.generate("ning", 30, args, state=state) == text
    assert pipeline.generate("ning", 30, args, state=state) == text
    stopped = PIPELINE_ARGS(temperature=0, alpha_frequency=0, alpha_presence=0, token_stop=[ord(text[4])])
    assert pipeline.generate("In the beginning", 30, stopped) == text[: text.index(text[4])]
    banned = PIPELINE_ARGS(temperature=0, token_ban=[ord("e")])
    assert "e" not in pipeline.generate("In the beginning", 30, banned)


def test_a_seed_gives_the_same_text(pipeline: PIPELINE) -> None:
    texts = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        texts.append(pipeline.generate("And God said", 40))
    assert texts[0] == texts[1] != texts[2]


def test_sampling(pipeline: PIPELINE) -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    np.random.seed(0)

    def counts(**options: float) -> list[int]:
        drawn = [pipeline.sample_logits(logits, **options) for _ in range(2000)]  # type: ignore[arg-type]
        return np.bincount(drawn, minlength=4).tolist()

    assert counts(temperature=0) == [2000, 0, 0, 0]
    assert counts(top_p=0.1) == [2000, 0, 0, 0]
    assert counts(top_p=0.6)[2:] == [0, 0]
    assert counts(top_p=1, top_k=2)[2:] == [0, 0]
    assert min(counts(top_p=0.8)) > 150  # the third and the fourth are as likely as each other
    assert min(counts(top_p=1)) > 150
    assert counts(top_p=1, temperature=0.2)[0] > 1900
    with pytest.raises(GenerationError, match="largest to be finite, got nan"):
        pipeline.sample_logits(np.full(4, np.nan))


def test_an_empty_text(pipeline: PIPELINE) -> None:
    with pytest.raises(GenerationError, match="ctx: expected a text of at least one token"):
        pipeline.generate("")


def test_refined_contexts(pipeline: PIPELINE) -> None:
    assert pipeline.refine_context("  a \n\n\u3000b\u3000\r\n c") == "\na\nb\nc"
    assert pipeline.refine_context(" ") == "\n"


def test_tokenizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("1 'a' 1\n2 'b' 1\n3 'ab' 2\n4 b'\\xc3' 1\n5 b'\\xa9' 1\n")
    tokenizer = TRIE_TOKENIZER(path)
    assert tokenizer.encode("aabé") == tokenizer.encodeBytes("aabé".encode()) == [1, 3, 4, 5]
    assert tokenizer.decode([3, 4, 5]) == "abé"
    assert tokenizer.decode([3, 4]) == tokenizer.decode([0]) == tokenizer.decode([99]) == "\ufffd"
    assert tokenizer.decodeBytes([3, 4]) == b"ab\xc3"
    assert tokenizer.idx2token[3] == b"ab"
    assert tokenizer.token2idx[b"ab"] == 3
    tokenizer.printTokens([3, 4])
    assert capsys.readouterr().out == "'ab'3 b'\\xc3'4 \n"
    assert PIPELINE(None, str(path)).decode([3]) == "ab"
    with pytest.raises(TokenizerError, match="cl100k_base: not supported"):
        PIPELINE(None, "cl100k_base")


def test_the_world_vocabulary_of_a_model_needs_no_other_package(model: RWKV, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [b"", *(bytes([byte]) for byte in range(256))]
    tokens += [b"word%d" % number for number in range(len(tokens), 65_536)]
    world = WorldTokenizer(tokens)
    monkeypatch.setattr(model.language_model._loaded, "tokenizer", world)
    assert PIPELINE(model, "rwkv_vocab_v20230424").encode("word9000") == [9000]


def test_a_tokenizer_json() -> None:
    pytest.importorskip("tokenizers", reason="reads a tokenizer.json")
    tokenizer = PackageTokenizer(load_tokenizer("huggingface", with_token("<end>", 300)))
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab"
    assert tokenizer.decode([300]) == "<end>"


def test_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    names = run_python(ROOT / "docs" / "compat.md")
    assert len(names["text"]) > 20
    assert names["text"] in capsys.readouterr().out
