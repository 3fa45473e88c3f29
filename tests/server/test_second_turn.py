"""A further turn of a conversation computes its new tokens once, and repeats nothing else of the turns before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from rwkv_cy.engine.speculation import sources
from rwkv_cy.engine.state_cache import StateCache
from rwkv_cy.model.language_model import LanguageModel
from server.running import Client, running

QUESTION = "Who begat whom, and when?"
ANSWER = " God.\n\n"


@pytest.fixture
def work(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what is done: passes and their tokens, characters that are encoded, states that are copied."""
    done: Counter[str] = Counter()
    assert kjv.tokenizer is not None
    run, encode = kjv.passes.run, kjv.tokenizer.encode
    store, index = StateCache.store, sources.Lookup._index_older

    def counted_run(parts: Any, *others: Any) -> Any:
        done["passes"] += 1
        done["tokens"] += sum(len(part.ids) for part in parts)
        return run(parts, *others)

    def counted_encode(text: str) -> list[int]:
        done["characters"] += len(text)
        return encode(text)

    def counted_store(self: StateCache, *others: Any) -> bool:
        before = self.stats.stored.total()
        result = store(self, *others)
        done["states"] += self.stats.stored.total() - before
        return result

    def counted_index(self: sources.Lookup) -> None:
        done["indexed"] += 1
        index(self)

    monkeypatch.setattr(kjv.passes, "run", counted_run)
    monkeypatch.setattr(kjv.tokenizer, "encode", counted_encode)
    monkeypatch.setattr(StateCache, "store", counted_store)
    monkeypatch.setattr(sources.Lookup, "_index_older", counted_index)
    return done


def ask(client: Client, path: str, turns: int, most: int) -> dict[str, Any]:
    """Send a conversation of so many turns; return the usage."""
    messages: list[dict[str, str]] = [{"role": "user", "content": QUESTION}]
    for _ in range(turns - 1):
        messages += [{"role": "assistant", "content": ANSWER.strip()}, messages[0]]
    client.script.append(ANSWER)
    result = client.post(path, {"messages": messages, "max_tokens": most})
    assert result.status == 200, result.data
    usage: dict[str, Any] = result.json["usage"]
    return usage


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_turn_computes_its_new_tokens(kjv: LanguageModel, work: Counter[str], path: str) -> None:
    new = len(f"User: {QUESTION}\n\nAssistant:") + 1  # the last token of an answer is read by the next turn
    with running(kjv) as client:
        ask(client, path, 1, 100)
        for turn in range(2, 30):
            work.clear()
            usage = ask(client, path, turn, 1)
            if path == "/v1/messages":
                assert usage["input_tokens"] + usage["cache_creation_input_tokens"] == new
            else:
                assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] == new
            assert (work["tokens"], work["passes"]) == (new, 1)
            assert work["characters"] <= len(ANSWER) + 8  # the question is known, and all that came before
            assert (work["states"], work["indexed"]) == (1, 0)
            ask(client, path, turn, 100)
