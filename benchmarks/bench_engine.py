"""The engine: many streams against one, first tokens beside others, a conversation's cache, speculation.

usage: python benchmarks/bench_engine.py [streams] [first-token] [conversation] [speculation]

A model of the 0.1B shape of RWKV-7 with initial values is made and quantized to q8 in a temporary folder: its texts
mean nothing, its times are those of a trained one. Its head is scaled so that a token is about as uncertain as one of a
trained model: the initial values make all tokens nearly equally likely, and a sampler looks at those that are likely.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

import rwkv_cy
from rwkv_cy.engine import Engine, Event, Request, Speculation, StateCache
from rwkv_cy.text import ByteTokenizer, SamplingOptions

GREEDY = SamplingOptions(temperature=0)
SHAPE = rwkv_cy.Config(d_model=768, num_layers=12, vocab_size=65536, d_ffn=3072, architecture="rwkv7")


class Ids(ByteTokenizer):
    """Decodes tokens of a model without a vocabulary, as the last byte of each number."""

    vocab_size = SHAPE.vocab_size
    end_of_text = None

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return a letter for each token."""
        return bytes(97 + token % 26 for token in tokens)


#: Standard deviation of the logits: of 65,536 normally distributed ones, the perplexity is then about 20.
LOGITS = 4.0


def make_model(folder: Path) -> rwkv_cy.LanguageModel:
    """Return a model of the 0.1B shape, in q8."""
    initial = rwkv_cy.LanguageModel.new(SHAPE, 0)
    logits, _ = initial.forward(ids(16, 0))
    head = initial.parameters["head.weight"].array * np.float32(LOGITS / logits.std())
    rwkv_cy.LanguageModel(SHAPE, {**initial.parameters, "head.weight": head}).save(folder / "f32.h5")
    rwkv_cy.quantize(folder / "f32.h5", folder / "q8.h5", dtype="q8")
    return rwkv_cy.load(folder / "q8.h5", tokenizer=Ids())


def ids(count: int, seed: int) -> list[int]:
    """Return random tokens."""
    return np.random.default_rng(seed).integers(1, 60000, count).tolist()


def run(engine: Engine, requests: list[Request]) -> tuple[float, dict[str, Event]]:
    """Run requests; return the seconds, and the last event of each."""
    start = time.perf_counter()
    last = {event.request_id: event for event in engine.run(requests) if event.finish_reason}
    return time.perf_counter() - start, last


def streams(model: rwkv_cy.LanguageModel, count: int, tokens: int) -> float:
    """Return the tokens per second of so many streams together."""
    engine = Engine(model, slots=count, speculation=None)
    requests = [Request(prompt=ids(2, i), seed=i, max_tokens=tokens) for i in range(count)]
    return count * tokens / run(engine, requests)[0]


def first_token(model: rwkv_cy.LanguageModel, beside: int, prompt: int) -> float:
    """Return the seconds to the first token of a prompt, beside so many streams."""
    engine = Engine(model, slots=beside + 1, speculation=None)
    for i in range(beside):
        engine.submit(Request(prompt=ids(2, i), seed=i, max_tokens=None, stop_tokens=()))
    engine.step()
    engine.submit(Request(prompt=ids(prompt, 99), max_tokens=1, id="measured"))
    while True:
        for event in engine.step():
            if event.request_id == "measured" and event.timings is not None:
                return event.timings.first_token


def conversation(model: rwkv_cy.LanguageModel, turns: int) -> tuple[float, float, float]:
    """Return an agent's share of prompt tokens from the cache, and seconds to the first token of its last turn.

    The second figure is with the cache; the third is that of a prompt of as many new tokens.
    """
    engine = Engine(model, cache=StateCache())
    text = ids(600, 0)  # the system prompt with tools
    for turn in range(turns):
        text = [*text, *ids(30, turn + 1)]  # the result of a tool, or a question
        request = Request(prompt=text, seed=turn, max_tokens=20, stop_tokens=(), id="turn")
        tokens, last = [], None
        for event in engine.run([request]):
            tokens += [event.token] if event.token is not None else []
            last = event
        text += tokens
    stats = engine.cache.stats if engine.cache is not None else None
    new = last.usage.prompt_tokens - last.usage.cached_tokens  # type: ignore[union-attr]
    _, alone = run(Engine(model), [Request(prompt=ids(new, 5), max_tokens=1, id="a")])
    return stats.hit_tokens / stats.prompt_tokens, last.timings.first_token, alone["a"].timings.first_token  # type: ignore[union-attr]


class Writes:
    """Makes a model without meaning write a text; it is in the logits, so that drafts must be verified."""

    def __init__(self, text: list[int]) -> None:
        self._text = text

    def __call__(self, produced: list[int], logits: np.ndarray) -> None:
        """Make the next token of the text the likeliest."""
        logits[self._text[len(produced)]] = 1e6


class KnownKeys(Writes):
    """Writes JSON whose keys a schema knows: of nine tokens six are forced, as a grammar tells, and three are not."""

    def forced_tokens(self, produced: list[int]) -> list[int]:
        """Return the rest of the key that the text is in."""
        place = len(produced)
        return self._text[place : place // 9 * 9 + 6]


def speculation(model: rwkv_cy.LanguageModel, tokens: int, repeats: int) -> list[float]:
    """Return the speed with drafts relative to without, for each of SPECULATIONS."""
    text = ids(tokens, 3)
    edited = [token if i % 24 else 7 for i, token in enumerate(text)]  # an edit that leaves most of it as it was
    plain = Request(prompt=ids(8, 1), options=GREEDY, max_tokens=tokens, id="a")
    results = []
    for request, writer in (
        (replace(plain, prediction=edited), Writes),
        (replace(plain, prompt=[*edited, *ids(8, 1)]), Writes),
        (plain, KnownKeys),
        (plain, Writes),
    ):
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(repeats):
            produced = []
            for on in (False, True):
                engine = Engine(model, speculation=Speculation() if on else None)
                run(engine, [replace(request, max_tokens=4, constraints=[writer(text)])])  # warm, and costs are known
                _, last = run(engine, [replace(request, constraints=[writer(text)])])
                timings, usage = last["a"].timings, last["a"].usage
                assert timings is not None
                assert usage is not None
                seconds[on].append(timings.decode)
                produced.append(usage.completion_tokens)
            assert produced == [tokens, tokens]
        results.append(statistics.median(off / on for off, on in zip(*seconds.values(), strict=True)))
    return results


#: What is written: an edit of a text that the request predicts, of one in the prompt, JSON, and what nobody knows.
SPECULATIONS = ("edit of a predicted text", "edit of a text in the prompt", "JSON with known keys", "random text")


def print_streams(model: rwkv_cy.LanguageModel, repeats: int) -> None:
    """Print the speed of many streams against one, each number of streams in every round."""
    counts = (1, 2, 4, 8, 16)
    rounds = [{count: streams(model, count, 48) for count in counts} for _ in range(repeats)]
    print(f"{'streams':>8} {'tokens/s':>9} {'against one':>12}")
    for count in counts:
        speed = statistics.median(each[count] for each in rounds)
        ratio = statistics.median(each[count] / each[1] for each in rounds)
        print(f"{count:>8} {speed:>9.1f} {ratio:>12.2f}", flush=True)


def print_first_token(model: rwkv_cy.LanguageModel, repeats: int) -> None:
    """Print the time to the first token of prompts, alone and beside others, in pairs."""
    for prompt in (16, 256):
        pairs = [(first_token(model, 0, prompt), first_token(model, 15, prompt)) for _ in range(repeats)]
        alone, beside = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(beside / alone for alone, beside in pairs)
        times = f"{alone:.3f} s alone, {beside:.3f} s beside 15 streams, {ratio:.2f} times"
        print(f"first token of {prompt} tokens: {times}", flush=True)


def print_conversation(model: rwkv_cy.LanguageModel, repeats: int) -> None:
    """Print what the cache does for an agent; it does not depend on repeats."""
    share, cached, new = conversation(model, 40)
    print(f"40 turns: {100 * share:.1f} % of prompt tokens from the cache", flush=True)
    print(f"first token of the last turn: {cached / new:.2f} times the prefill of its new tokens", flush=True)


def print_speculation(model: rwkv_cy.LanguageModel, repeats: int) -> None:
    """Print what drafts gain."""
    for name, gain in zip(SPECULATIONS, speculation(model, 126, repeats), strict=True):
        print(f"speculation, {name}: {gain:.2f} times as fast", flush=True)


PARTS = {
    "streams": print_streams,
    "first-token": print_first_token,
    "conversation": print_conversation,
    "speculation": print_speculation,
}


def main() -> None:
    """Run the parts that the command line names; all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements, of which the median counts (default: 5)")
    arguments = parser.parse_args()
    for name in arguments.parts:
        if name not in PARTS:
            parser.error(f"expected one of {', '.join(PARTS)}, got {name}")
    with tempfile.TemporaryDirectory() as folder, make_model(Path(folder)) as model:
        for name in arguments.parts or PARTS:
            PARTS[name](model, arguments.repeats)


if __name__ == "__main__":
    main()
