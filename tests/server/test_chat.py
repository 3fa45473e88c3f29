"""``/v1/chat/completions`` over plain HTTP."""

from __future__ import annotations

import pytest

from engine.helpers import eager
from rwkv_cy.model.language_model import LanguageModel
from server.running import NAME, Client, running

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "Who created the heaven?"}]


def test_an_answer(client: Client, kjv: LanguageModel) -> None:
    penalties = {"presence_penalty": 0, "frequency_penalty": 0}
    body = {"model": NAME, "messages": QUESTION, "max_tokens": 24, "temperature": 0, **penalties}
    answer = client.post(PATH, body)
    assert answer.status == 200
    result = answer.json
    assert result["object"] == "chat.completion"
    assert result["model"] == NAME
    (choice,) = result["choices"]
    generation = kjv.generate("User: Who created the heaven?\n\nAssistant:", max_tokens=24, temperature=0, stop="\n\n")
    text = "".join(generation)
    assert choice["message"] == {"role": "assistant", "content": text.strip(), "refusal": None}
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert result["usage"]["prompt_tokens"] == len(generation.prompt)
    assert result["usage"]["completion_tokens"] == 24
    assert result["usage"]["total_tokens"] == len(generation.prompt) + 24


def test_a_stream(client: Client) -> None:
    body = {"messages": QUESTION, "max_tokens": 24, "temperature": 0}
    whole = client.post(PATH, body).json
    answer = client.post(PATH, {**body, "stream": True})
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    chunks = answer.events
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert {chunk["model"] for chunk in chunks} == {NAME}
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]


def test_usage_in_a_stream(client: Client) -> None:
    body = {"messages": QUESTION, "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.post(PATH, body).events
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


def test_several_answers_and_seeds(client: Client) -> None:
    body = {"messages": QUESTION, "max_tokens": 12, "n": 3, "seed": 5, "temperature": 1.5}
    first = client.post(PATH, body).json
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert [choice["message"]["content"] for choice in client.post(PATH, body).json["choices"]] == texts
    second = client.post(PATH, {**body, "n": 1, "seed": 6}).json
    assert second["choices"][0]["message"]["content"] == texts[1]
    assert first["usage"]["completion_tokens"] == 36
    assert first["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]
    streamed: dict[int, str] = {}
    for chunk in client.post(PATH, {**body, "stream": True}).events:
        for choice in chunk["choices"]:
            streamed[choice["index"]] = streamed.get(choice["index"], "") + choice["delta"].get("content", "")
    assert [streamed[index] for index in range(3)] == texts


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: Client, stream: bool) -> None:
    body = {"messages": QUESTION, "max_tokens": 8, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    answer = client.post(PATH, {**body, "stream": stream})
    if stream:
        logprobs = [chunk["choices"][0]["logprobs"] for chunk in answer.events]
        tokens = [token for own in logprobs if own is not None for token in own["content"]]
    else:
        tokens = answer.json["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 8
    for token in tokens:
        assert bytes(token["bytes"]).decode("utf-8", "replace") == token["token"]
        assert len(token["top_logprobs"]) == 2
        assert token["top_logprobs"][0]["logprob"] >= token["logprob"]
    assert tokens[0]["top_logprobs"][0]["logprob"] == tokens[0]["logprob"] < 0  # greedy, before penalties


def test_a_prediction_changes_nothing_but_the_figures(kjv: LanguageModel) -> None:
    body = {"messages": QUESTION, "max_tokens": 60, "temperature": 0, "seed": 1}
    with running(kjv, speculation=eager()) as client:  # the default one drafts nothing where the machine is too busy
        plain = client.post(PATH, body).json
        text = plain["choices"][0]["message"]["content"]
        assert plain["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] == 0
        for content in (text, [{"type": "text", "text": text}]):
            predicted = client.post(PATH, {**body, "prediction": {"type": "content", "content": content}}).json
            assert predicted["choices"] == plain["choices"]
            assert predicted["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] > 20
        assert client.post(PATH, {**body, "prediction": {"content": [{"type": "image"}]}}).status == 400


def test_stop_strings(client: Client) -> None:
    body = {"messages": QUESTION, "max_tokens": 200, "temperature": 0}
    text = client.post(PATH, body).json["choices"][0]["message"]["content"]
    word = text.split()[2]
    result = client.post(PATH, {**body, "stop": [word, "never this"]}).json["choices"][0]
    assert result["finish_reason"] == "stop"
    assert result["message"]["content"] == text[: text.index(word)].rstrip()


def test_models(client: Client) -> None:
    listed = client.get("/v1/models").json
    assert [model["id"] for model in listed["data"]] == [NAME]
    assert client.get(f"/v1/models/{NAME}").json == listed["data"][0]
    missing = client.get("/v1/models/gpt-9")
    assert missing.status == 404
    assert missing.error["code"] == "model_not_found"
