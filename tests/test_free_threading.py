"""Python threads: one model used by many at once; on an interpreter without a GIL, no module turns it on."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest

import rwkv_cy
from checkpoints import random_checkpoint, write_safetensors
from contracts.cases import CONFIGS
from rwkv_cy import LanguageModel

PACKAGE = Path(rwkv_cy.__file__).parent
#: Every compiled module.
MODULES = sorted(
    {
        ".".join(path.relative_to(PACKAGE.parent).parts).removesuffix(suffix)
        for suffix in EXTENSION_SUFFIXES
        if suffix != ".so"
        for path in PACKAGE.rglob(f"*{suffix}")
    }
)
THREADS = 8
PROMPT = "In the beginning God created the heaven and the earth"
#: What runs at once, given a model and the number of the thread; the result is compared.
CALLS: dict[str, Callable[[LanguageModel, list[int], int], object]] = {
    "forward": lambda model, tokens, threads: model.forward(tokens, num_threads=threads)[0].tobytes(),
    "forward_batch": lambda model, tokens, threads: model.forward_batch(
        [tokens, tokens[:3], tokens[4]], num_threads=threads
    )[0].tobytes(),
    "hidden": lambda model, tokens, threads: model.hidden(tokens, num_threads=threads)[0].tobytes(),
    "embed": lambda model, tokens, threads: model.embed(tokens, num_threads=threads).tobytes(),
    "score": lambda model, tokens, threads: model.score(tokens, num_threads=threads).tobytes(),
}


def together(works: Sequence[Callable[[], object]]) -> list[object]:
    """Call functions at the same time, a thread each, and return their results."""
    results: list[object] = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def run(index: int) -> None:
        barrier.wait()
        results[index] = works[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def text(model: LanguageModel, seed: int) -> str:
    """Return what a model makes of the prompt."""
    return "".join(model.generate(PROMPT, max_tokens=24, temperature=1.0, seed=seed))


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a Python without a GIL")
def test_no_module_turns_the_gil_on() -> None:
    assert len(MODULES) > 20
    code = (
        "import importlib, sys\n"
        f"for name in {MODULES!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert not sys._is_gil_enabled(), name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", ["f32", "bf16", "bf12", "q8", "q6", "q4"])
def test_eight_threads_generate_what_one_does(dtype: str) -> None:
    with rwkv_cy.load(rwkv_cy.demo_model_path(), dtype=dtype) as model:
        works = [partial(text, model, seed) for seed in range(THREADS)]
        expected = [work() for work in works]
        assert len(set(expected)) > THREADS // 2
        assert together(works) == expected


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.endswith("-odd")])
def test_eight_threads_share_a_model_that_nothing_has_used(name: str, call: str, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", random_checkpoint(CONFIGS[name]))
    rng = np.random.default_rng(0)
    texts = [rng.integers(CONFIGS[name].vocab_size, size=20).tolist() for _ in range(THREADS)]
    with rwkv_cy.load(path) as alone, rwkv_cy.load(path) as shared:
        expected = [CALLS[call](alone, tokens, 1) for tokens in texts]
        # What a model prepares when it is first used, it must prepare once.
        works = [partial(CALLS[call], shared, tokens, 1 + i % 2) for i, tokens in enumerate(texts)]
        assert together(works) == expected
