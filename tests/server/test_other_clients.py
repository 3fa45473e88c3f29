"""The clients of Anthropic and langchain-openai against a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest

from server.running import NAME, Client

TOOL = {
    "name": "weather",
    "description": "Tells the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '> Let me look.\n```json\n{"name": "weather", "arguments": {"city": "Köln"}}\n```\n\nUser:'
QUESTION: Any = [{"role": "user", "content": "Weather in Köln?"}]


@pytest.fixture
def claude(g1: Client) -> Iterator[Any]:
    anthropic = pytest.importorskip("anthropic", reason="compares with the anthropic client")
    with anthropic.Anthropic(base_url=g1.url, api_key="none", max_retries=0) as sdk:
        yield sdk


def valid(kind: str, value: Any) -> Any:
    """Validate an answer by a type of anthropic."""
    from anthropic import types
    from pydantic import TypeAdapter

    return TypeAdapter(getattr(types, kind)).validate_python(value.model_dump(exclude_unset=True))


def test_a_message(g1: Client, claude: Any) -> None:
    g1.script.append(">\n Fine, STOP thanks.")
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    answer = claude.messages.create(
        model=NAME, max_tokens=50, messages=QUESTION, system=system, stop_sequences=["STOP"]
    )
    checked = valid("Message", answer)
    assert [block.text for block in checked.content] == ["Fine,"]
    assert (checked.stop_reason, checked.stop_sequence) == ("stop_sequence", "STOP")
    count = claude.messages.count_tokens(model=NAME, messages=QUESTION, system=system)
    usage = checked.usage
    assert usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens == count.input_tokens
    assert claude.messages.create(model=NAME, max_tokens=5, messages=QUESTION).stop_reason == "max_tokens"


def test_tools(g1: Client, claude: Any) -> None:
    g1.script.append(CALL)
    answer = claude.messages.create(model=NAME, max_tokens=200, messages=QUESTION, tools=[TOOL])
    text, call = valid("Message", answer).content
    assert (text.text, call.name, call.input) == ("Let me look.", "weather", {"city": "Köln"})
    assert answer.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "blue"}]}
    later = [*QUESTION, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    g1.script.append("> It is blue.\n\nUser:")
    final = claude.messages.create(model=NAME, max_tokens=200, messages=later, tools=[TOOL])
    assert (final.content[0].text, final.stop_reason) == ("It is blue.", "end_turn")


def test_a_stream(g1: Client, claude: Any) -> None:
    g1.script.append(">\nHm." + "\n</think" + CALL)
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    with claude.messages.stream(
        model=NAME, max_tokens=2000, messages=QUESTION, tools=[TOOL], thinking=thinking
    ) as stream:
        events = list(stream)
        final = stream.get_final_message()
    for event in events:
        assert event.type
    thought, text, call = valid("Message", final).content
    assert (thought.thinking, text.text, call.input) == ("Hm.", "Let me look.", {"city": "Köln"})
    assert final.stop_reason == "tool_use"
    assert final.usage.output_tokens > 50
    pieces = [event.partial_json for event in events if event.type == "input_json"]
    assert len(pieces) > 10


def test_parsed_answers(claude: Any) -> None:
    pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")
    from pydantic import BaseModel

    class Answer(BaseModel):
        city: Literal["Rom", "Ur"]
        tomorrow: bool

    answer = claude.messages.parse(model=NAME, max_tokens=200, messages=QUESTION, output_format=Answer)
    assert isinstance(answer.parsed_output, Answer)
    assert answer.stop_reason == "end_turn"


def test_errors(claude: Any) -> None:
    import anthropic

    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        claude.messages.create(model=NAME, max_tokens=0, messages=QUESTION)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="claude", max_tokens=1, messages=QUESTION)


def test_langchain(g1: Client) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="compares with langchain-openai")
    options: dict[str, Any] = {"base_url": f"{g1.url}/v1", "api_key": "none", "model": NAME, "max_retries": 0}
    chat = langchain.ChatOpenAI(**options)
    g1.script.append("> Four.\n\nUser:")
    assert chat.invoke("2+2?").content == "Four."
    g1.script.append("> Four.\n\nUser:")
    assert "".join(chunk.content for chunk in chat.stream("2+2?")) == "Four."
    g1.script.append(CALL)
    tool = {"type": "function", "function": {**TOOL, "parameters": TOOL["input_schema"]}}
    answer = chat.bind_tools([tool]).invoke("Weather?")
    assert answer.tool_calls[0]["args"] == {"city": "Köln"}
    vectors = langchain.OpenAIEmbeddings(check_embedding_ctx_length=False, **options).embed_documents(["a b", "c"])
    assert [len(vector) for vector in vectors] == [128, 128]


def test_ids_of_another_vocabulary_are_explained(g1: Client) -> None:
    answer = g1.post("/v1/embeddings", {"input": [[1, 5000]]})
    assert answer.status == 400
    assert "check_embedding_ctx_length=False" in answer.error["message"]
