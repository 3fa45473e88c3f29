"""Paths and fields beyond OpenAI's: prompts as text, progress and times, tuned states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pages import ROOT
from rwkv_cy.model.language_model import LanguageModel, load
from rwkv_cy.server.settings import Settings
from server.running import NAME, Client, running

CHAT = "/v1/chat/completions"
HELLO: list[dict[str, Any]] = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "max_tokens": 12, "presence_penalty": 0, "frequency_penalty": 0}


def test_the_prompt_of_a_chat(client: Client) -> None:
    answer = client.post("/apply-template", {"messages": HELLO}).json
    assert answer["prompt"] == "System: Be brief.\n\nUser: Hello\n\nAssistant:"
    assert answer["stop"] == ["\n\n"]
    completed = client.post("/v1/completions", {"prompt": answer["tokens"], "stop": answer["stop"], **GREEDY}).json
    chat = client.post(CHAT, {"messages": HELLO, **GREEDY}).json
    assert completed["choices"][0]["text"].strip() == chat["choices"][0]["message"]["content"]
    assert client.post("/apply-template", {"messages": []}).status == 400


def test_tokens_and_back(client: Client) -> None:
    for name in ("prompt", "content"):
        tokens = client.post("/tokenize", {name: "Grüße"}).json["tokens"]
        assert tokens == list("Grüße".encode())
    pieces = client.post("/tokenize", {"content": "ab", "with_pieces": True}).json["tokens"]
    assert pieces == [{"id": 97, "piece": "a"}, {"id": 98, "piece": "b"}]
    assert client.post("/detokenize", {"tokens": tokens}).json == {"prompt": "Grüße", "content": "Grüße"}
    assert client.post("/detokenize", {"tokens": [10**6]}).status == 400
    assert client.get("/tokenizer_info").json["vocab_size"] == 256


@pytest.mark.parametrize("stream", [False, True])
def test_times(client: Client, stream: bool) -> None:
    body = {"messages": HELLO, "max_tokens": 7, "stream": stream, "no_cache": True}
    plain = client.post(CHAT, body)
    assert b"timings" not in plain.data
    answer = client.post(CHAT, {**body, "return_timings": True})
    timings = answer.events[-1]["timings"] if stream else answer.json["timings"]
    assert (timings["prompt_n"], timings["cache_n"], timings["predicted_n"]) == (42, 0, 7)
    assert timings["prompt_ms"] > 0
    assert timings["prompt_per_second"] == pytest.approx(42_000 / timings["prompt_ms"])
    assert timings["predicted_per_second"] == pytest.approx(6_000 / timings["predicted_ms"])


def test_progress_of_a_long_prompt(client: Client) -> None:
    messages = [{"role": "user", "content": "x" * 1500}]
    usage = {"stream_options": {"include_usage": True}}
    body = {"messages": messages, "max_tokens": 2, "stream": True, "no_cache": True, "return_progress": True, **usage}
    chunks = client.post(CHAT, body).events
    progress = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert [each["processed"] for each in progress] == [512, 1024]
    assert {each["total"] for each in progress} == {chunks[-1]["usage"]["prompt_tokens"]}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_penalties_and_biases(client: Client) -> None:
    """Each option reaches the sampler: it changes the text as `generate` with the same option."""
    body = {"prompt": "And he said, ", "max_tokens": 40, "temperature": 0}
    plain = client.post("/v1/completions", body).json["choices"][0]["text"]
    for name, value, own in (
        ("presence_penalty", 1.5, {"penalty_decay": 1.0}),
        ("frequency_penalty", 0.7, {"penalty_decay": 1.0}),
        ("repetition_penalty", 1.4, {}),
        ("logit_bias", {"101": -100}, {}),
    ):
        text = client.post("/v1/completions", {**body, name: value}).json["choices"][0]["text"]
        given = {101: -100} if name == "logit_bias" else value
        expected = client.service.model.generate(
            body["prompt"],  # type: ignore[arg-type]
            max_tokens=40,
            temperature=0,
            **{name: given, **own},
        )
        assert text == "".join(expected)
        assert text != plain


def write_tuned(model: LanguageModel, path: Path) -> None:
    """Write a tuned state, as `rwkv-cy tune --method state` does."""
    config = model.config
    shape = (config.d_model // config.head_size, config.head_size, config.head_size)
    arrays = {
        f"blocks.{layer}.att.time_state": np.random.default_rng(layer).standard_normal(shape).astype(np.float32)
        for layer in range(config.num_layers)
    }
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    data = json.dumps(header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + b"".join(map(np.ndarray.tobytes, arrays.values())))


def test_a_tuned_state_for_everybody(tmp_path: Path) -> None:
    demo = load(ROOT / "data" / "kjv7.pth")
    write_tuned(demo, tmp_path / "manner.safetensors")
    expected = "".join(
        demo.generate("Lo, ", state=demo.load_state(tmp_path / "manner.safetensors"), temperature=0, max_tokens=12)
    )
    with running(demo, Settings(NAME, keys=("first-key-1", "second-key-2"), state_folder=tmp_path)) as client:
        for key in ("first-key-1", "second-key-2"):
            client.headers["authorization"] = f"Bearer {key}"
            assert client.get("/v1/states").json["saved"] == ["manner"]
            assert client.post("/v1/states", {"saved": "manner"}).status == 200
            answer = client.post("/v1/completions", {"prompt": "Lo, ", "state": "manner", **GREEDY})
            assert answer.json["choices"][0]["text"] == expected
            assert client("DELETE", "/v1/states/manner").status == 200
            assert client.get("/v1/states").json["saved"] == ["manner"]
    assert expected != "".join(demo.generate("Lo, ", temperature=0, max_tokens=12))
