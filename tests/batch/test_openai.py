"""OpenAI's batch format in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.helpers import contents, lines, write_jsonl
from rwkv_cy.batch import EmbedTask, GenerateTask, ScoreTask, run_batch
from rwkv_cy.chat import FORMATS, Conversation, Message, build_prompt
from rwkv_cy.model.language_model import LanguageModel

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


def request(name: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": {"model": "m", **body}}


def test_completions_and_chats(kjv: LanguageModel, tmp_path: Path) -> None:
    rows = [
        request("a", COMPLETIONS, prompt="In the beginning", max_tokens=6, seed=3, temperature=0.5),
        request("b", CHAT, messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=5, temperature=0),
        request("c", CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], max_tokens=5,
                temperature=0),
    ]  # fmt: skip
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run_batch(kjv, source, tmp_path / "out", GenerateTask())
    completion, chat, same = lines(tmp_path / "out")
    assert set(completion) == {"id", "custom_id", "response", "error"}
    assert (completion["custom_id"], completion["error"], completion["response"]["status_code"]) == ("a", None, 200)
    body = completion["response"]["body"]
    text = "".join(kjv.generate("In the beginning", max_tokens=6, seed=3, temperature=0.5))
    assert body["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "length", "text": text}]
    assert (body["object"], body["model"]) == ("text_completion", "m")
    assert body["usage"] == {"prompt_tokens": 16, "completion_tokens": 6, "total_tokens": 22}

    body = chat["response"]["body"]
    prompt = build_prompt(FORMATS["world"], Conversation([Message("user", "Hello")]), kjv.tokenizer)  # type: ignore[arg-type]
    settings = {**prompt.sampling, "temperature": 0}
    expected = "".join(kjv.generate(prompt.tokens, max_tokens=5, stop=prompt.stops, **settings))
    assert body["choices"][0]["message"] == {"role": "assistant", "content": expected.strip(), "refusal": None}
    assert body["object"] == "chat.completion"
    assert same["response"]["body"]["choices"] == body["choices"]
    assert same["id"] != chat["id"]


def test_embeddings(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [request("e", EMBEDDINGS, input="In the beginning")])
    run_batch(kjv, source, tmp_path / "out", EmbedTask())
    (line,) = lines(tmp_path / "out")
    body = line["response"]["body"]
    (data,) = body["data"]
    assert np.array(data["embedding"], np.float32).tobytes() == kjv.embed("In the beginning").tobytes()
    assert body["usage"] == {"prompt_tokens": 16, "total_tokens": 16}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (request("x", "/v1/files"), "url: expected one of /v1/chat/completions"),
        ({**request("x", CHAT), "method": "GET"}, "method: expected POST, got 'GET'"),
        ({**request("x", CHAT), "body": "text"}, "body: expected an object, got str"),
        (request("x", EMBEDDINGS, input="x"), "url: expected /v1/completions or /v1/chat/completions for this task"),
        (request("x", CHAT), "messages: expected an array of at least one"),
        (request("x", CHAT, messages=["Hello"]), r"messages[0]: expected an object with a role"),
        (request("x", CHAT, messages=[{"role": "queen", "content": ""}]), "role: expected one of system"),
        (request("x", CHAT, messages=[{"role": "user"}]), "messages[0].content: expected a text, got None"),
        (
            request("x", CHAT, messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            "messages[0].content: expected parts of text",
        ),
        (request("x", COMPLETIONS, prompt="x", stream=True), "stream: expected none"),
        (request("x", CHAT, messages=[{"role": "user", "content": "x"}], tools=[{}]), "tools: expected none"),
    ],
)
def test_a_request_without_an_answer(kjv: LanguageModel, tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [row])
    run_batch(kjv, source, tmp_path / "out", GenerateTask(max_tokens=1))
    assert lines(tmp_path / "out") == []
    (bad,) = lines(tmp_path / "out" / "errors", "*")
    assert (bad["custom_id"], bad["response"]) == ("x", None)
    assert reason in bad["error"]["message"]


def test_other_fields_of_null_have_no_effect(kjv: LanguageModel, tmp_path: Path) -> None:
    plain = request("a", COMPLETIONS, prompt="And", max_tokens=4)
    nulls = request(
        "a", COMPLETIONS, prompt="And", max_tokens=4, n=None, tools=None, seed=None, user="me", stream=False
    )
    for name, row in (("plain", plain), ("nulls", nulls)):
        run_batch(kjv, write_jsonl(tmp_path / f"{name}.jsonl", [row]), tmp_path / name, GenerateTask())
    texts = [lines(tmp_path / name)[0]["response"]["body"]["choices"] for name in ("plain", "nulls")]
    assert texts[0] == texts[1]


def test_scores_have_no_endpoint(kjv: LanguageModel, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [request("x", COMPLETIONS, prompt="x")])
    run_batch(kjv, source, tmp_path / "out", ScoreTask())
    assert b"url: expected a plain record for this task" in contents(tmp_path / "out")["errors/errors-000000.jsonl"]
