"""Prompts with the same beginning are read once: figures, partitions, and a cache that outlives the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.settings import Settings
from server.running import NAME, Client, running

CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You answer in the words of the King James Bible. " * 8}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


def ask(client: Client, messages: list[Any], **more: Any) -> tuple[str, int, int]:
    """Return the answer to messages, the tokens of the prompt, and those from the cache."""
    result = client.post(CHAT, {"messages": messages, **GREEDY, **more}).json
    usage = result["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return result["choices"][0]["message"]["content"], usage["prompt_tokens"], cached


def user(text: str) -> dict[str, str]:
    """Return a question that is longer than the least distance of places that are stored."""
    return {"role": "user", "content": f"Who begat whom, and when, and where? {text}"}


def test_a_conversation_is_read_once(kjv: LanguageModel) -> None:
    with running(kjv) as client:
        messages: list[Any] = [SYSTEM]
        total = hit = 0
        for turn in range(40):
            messages.append(user(f"Question {turn}: who begat him?"))
            text, tokens, cached = ask(client, messages)
            if turn % 10 == 9:
                assert text == ask(client, messages, no_cache=True)[0]
            messages.append({"role": "assistant", "content": text})
            total += tokens
            hit += cached
        assert hit >= 0.95 * total
        page = client.get("/metrics").data.decode()
        assert 'rwkv_cy_cache{figure="hits"}' in page
        assert f'rwkv_cy_tokens_total{{kind="cached"}} {float(hit)}' in page.splitlines()


def test_the_rest_of_a_prompt_may_differ(kjv: LanguageModel) -> None:
    with running(kjv) as client:
        alone = [ask(client, [SYSTEM, user(text)], no_cache=True) for text in ("a", "b")]
        ask(client, [SYSTEM, user("a")])
        text, tokens, cached = ask(client, [SYSTEM, user("b")])
        assert (text, tokens) == alone[1][:2]
        assert cached > 0.8 * tokens


def test_several_answers_share_their_prompt(kjv: LanguageModel) -> None:
    with running(kjv) as client:
        body = {"messages": [SYSTEM, user("a")], "max_tokens": 4, "n": 4, "seed": 1, "temperature": 2}
        first = client.post(CHAT, body).json
        assert len({choice["message"]["content"] for choice in first["choices"]}) > 1
        assert client.service.engine.engine.cache is not None
        assert client.service.engine.engine.cache.stats.hit_tokens >= 3 * 0.9 * first["usage"]["prompt_tokens"]


def test_responses_go_on_from_the_cache(kjv: LanguageModel) -> None:
    with running(kjv) as client:
        name = None
        for _ in range(3):
            body = {
                "input": "Who begat whom, and when, and where?",
                "previous_response_id": name,
                "max_output_tokens": 9,
            }
            result = client.post("/v1/responses", body).json
            name = result["id"]
        usage = result["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] > usage["input_tokens"] / 2


@pytest.mark.parametrize("by", ["key", "prompt_cache_key"])
def test_partitions_share_nothing(kjv: LanguageModel, by: str) -> None:
    keys = ("first-key-1", "second-key-2")
    with running(kjv, Settings(NAME, keys=keys)) as client:

        def cached(number: int) -> int:
            client.headers["authorization"] = f"Bearer {keys[number if by == 'key' else 0]}"
            more = {"prompt_cache_key": f"part {number}"} if by != "key" else {}
            return ask(client, [SYSTEM, user("a")], **more)[2]

        assert [cached(number) > 0 for number in (0, 0, 1, 1)] == [False, True, False, True]


def test_a_breakpoint_of_the_client(kjv: LanguageModel) -> None:
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    parts = [{"type": "text", "text": str(SYSTEM["content"]), **mark}]
    with running(kjv) as client:
        result = client.post(CHAT, {"messages": [{"role": "system", "content": parts}, user("a")], **GREEDY}).json
        assert result["usage"]["prompt_tokens_details"]["cache_write_tokens"] > 0
        assert ask(client, [SYSTEM, user("b")])[2] > 0


def test_a_cache_outlives_its_server(kjv: LanguageModel, tmp_path: Path) -> None:
    texts = []
    for expected in (False, True):
        with running(kjv, cache_folder=tmp_path) as client:
            text, _, cached = ask(client, [SYSTEM, user("a")])
            texts.append(text)
            assert (cached > 0) is expected
    assert texts[0] == texts[1]
