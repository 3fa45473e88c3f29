"""The openai client against a server: every answer has the form of its own types."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from server.running import NAME, Client

openai = pytest.importorskip("openai", reason="compares with the openai client")
pydantic = pytest.importorskip("pydantic", reason="compares with the openai client")

from openai.types import Completion, CreateEmbeddingResponse, Model  # noqa: E402
from openai.types.chat import ChatCompletion, ChatCompletionChunk  # noqa: E402
from openai.types.decision import Decision  # noqa: E402
from openai.types.responses import Response, ResponseStreamEvent  # noqa: E402

QUESTION = [{"role": "user", "content": "Who created the heaven?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = ' ```json\n{"name": "weather", "arguments": {"city": "Köln"}}\n```\n\nUser:'
#: Fields that the API has beyond OpenAI's.
OWN = {"reasoning_content", "state", "states", "meta", "store"}


def strictly(kind: Any, value: Any) -> Any:
    """Validate an answer by a type of openai; fields that it does not have are errors."""
    data = value.model_dump(exclude_unset=True, by_alias=True) if isinstance(value, pydantic.BaseModel) else value
    checked = pydantic.TypeAdapter(kind).validate_python(data)
    assert extras(checked) <= OWN
    return checked


def extras(value: Any) -> set[str]:
    """Return the names of fields that types do not have, at any depth."""
    if isinstance(value, pydantic.BaseModel):
        own = set(value.model_extra or {})
        return own.union(*(extras(getattr(value, name)) for name in type(value).model_fields))
    if isinstance(value, (list, tuple)):
        return set().union(*map(extras, value))
    return set().union(*map(extras, value.values())) if isinstance(value, dict) else set()


@pytest.fixture
def sdk(client: Client) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def g1_sdk(g1: Client) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{g1.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_models(sdk: Any) -> None:
    (model,) = sdk.models.list().data
    assert strictly(Model, model).id == NAME
    assert sdk.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        sdk.models.retrieve("gpt-9")


def test_chat(sdk: Any) -> None:
    answer = sdk.chat.completions.create(
        model=NAME, messages=QUESTION, max_completion_tokens=20, seed=1, logprobs=True, top_logprobs=3, n=2, user="me"
    )
    checked = strictly(ChatCompletion, answer)
    assert [choice.finish_reason for choice in checked.choices] == ["length", "length"]
    assert all(len(choice.logprobs.content) == 20 for choice in checked.choices)
    assert checked.usage.prompt_tokens_details.cached_tokens is not None


def test_a_stream_has_the_text_of_the_answer(sdk: Any) -> None:
    options: dict[str, Any] = {"model": NAME, "messages": QUESTION, "max_tokens": 20, "seed": 1}
    whole = sdk.chat.completions.create(**options)
    chunks = list(sdk.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        strictly(ChatCompletionChunk, chunk)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_stream_helper(client: Client, sdk: Any) -> None:
    client.script.append(" God, and no other.\n\n")
    with sdk.chat.completions.stream(model=NAME, messages=QUESTION) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert text == final.choices[0].message.content == "God, and no other."


def test_async(client: Client, sdk: Any) -> None:
    options: dict[str, Any] = {"model": NAME, "messages": QUESTION, "max_tokens": 10}
    expected = [sdk.chat.completions.create(**options, seed=seed).choices[0].message.content for seed in range(8)]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key="none") as other:

            async def one(seed: int) -> str:
                text = ""
                async for chunk in await other.chat.completions.create(**options, seed=seed, stream=True):
                    text += chunk.choices[0].delta.content or ""
                return text

            return await asyncio.gather(*map(one, range(8)))

    assert asyncio.run(all_at_once()) == expected


def test_tools(g1: Client, g1_sdk: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "Weather in Köln?"}]
    g1.script.append(">" + CALL)
    answer = g1_sdk.chat.completions.create(model=NAME, messages=messages, tools=[WEATHER])
    strictly(ChatCompletion, answer)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Köln"})
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "blue"}'}]
    g1.script.append("> It is blue.\n\nUser:")
    final = g1_sdk.chat.completions.create(model=NAME, messages=messages, tools=[WEATHER]).choices[0]
    assert (final.finish_reason, final.message.content) == ("stop", "It is blue.")


def test_tools_in_a_stream(g1: Client, g1_sdk: Any) -> None:
    g1.script.append("> Let me look.\n" + CALL)
    question: Any = [{"role": "user", "content": "Weather?"}]
    chunks = list(g1_sdk.chat.completions.create(model=NAME, messages=question, tools=[WEATHER], stream=True))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [delta.function.name for delta in deltas if delta.function.name] == ["weather"]
    assert len({delta.id for delta in deltas if delta.id}) == 1
    assert sum(delta.id is not None for delta in deltas) == 1
    assert "".join(delta.function.arguments for delta in deltas) == '{"city": "Köln"}'
    assert len(deltas) > 10
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me look."
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    g1.script.append("> Let me look.\n" + CALL)
    with g1_sdk.chat.completions.stream(model=NAME, messages=question, tools=[WEATHER]) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.tool_calls[0].function.arguments == '{"city": "Köln"}'


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_that_must_be_called(g1: Client, g1_sdk: Any, choice: Any) -> None:
    begun = "" if choice != "required" else ' "weather", "arguments":'
    g1.script.append(begun + ' {"city": "Rom"}}\n```\n\nUser:')
    answer = g1_sdk.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": "Weather?"}], tools=[WEATHER], tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rom"}')


def test_reasoning(g1: Client, g1_sdk: Any) -> None:
    text = ">\nHm, easy.\n</think>\nFour.\n\nUser:"
    question: Any = [{"role": "user", "content": "2+2?"}]
    g1.script.append(text)
    answer = g1_sdk.chat.completions.create(model=NAME, messages=question, reasoning_effort="high")
    strictly(ChatCompletion, answer)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("Four.", "Hm, easy.")
    assert 9 <= answer.usage.completion_tokens_details.reasoning_tokens <= 20
    g1.script.append(text)
    chunks = list(g1_sdk.chat.completions.create(model=NAME, messages=question, reasoning_effort="high", stream=True))
    thought = "".join(getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in chunks)
    assert thought == "Hm, easy."


def test_completions(sdk: Any) -> None:
    whole = sdk.completions.create(
        model=NAME, prompt="In the beginning", max_tokens=8, temperature=0, logprobs=2, echo=True
    )
    (choice,) = strictly(Completion, replaced_nulls(whole)).choices
    assert choice.text.startswith("In the beginning")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == list(range(len(choice.text)))
    several = sdk.completions.create(model=NAME, prompt=["In the", [73, 110]], max_tokens=4, n=2, best_of=3, seed=1)
    assert [one.index for one in strictly(Completion, several).choices] == [0, 1, 2, 3]
    chunks = list(
        sdk.completions.create(model=NAME, prompt="In the beginning", max_tokens=8, temperature=0, stream=True)
    )
    assert "In the beginning" + "".join(chunk.choices[0].text for chunk in chunks) == choice.text


def replaced_nulls(completion: Any) -> dict[str, Any]:
    """Return a completion without the null of the first token, which OpenAI's API has and its types lack."""
    data: dict[str, Any] = completion.model_dump(exclude_unset=True)
    for choice in data["choices"]:
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        logprobs["token_logprobs"][0], logprobs["top_logprobs"][0] = 0.0, {}
    return data


def test_embeddings(sdk: Any) -> None:
    floats = sdk.embeddings.create(model=NAME, input=["In the beginning", "And God said"], encoding_format="float")
    strictly(CreateEmbeddingResponse, floats)
    default = sdk.embeddings.create(model=NAME, input=["In the beginning", "And God said"])
    for one, other in zip(floats.data, default.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-5)


def test_responses(sdk: Any) -> None:
    first = sdk.responses.create(model=NAME, input="Who created the heaven?", max_output_tokens=10, temperature=0)
    checked = strictly(Response, first)
    assert (checked.status, checked.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert checked.output_text
    second = sdk.responses.create(
        model=NAME, input="And the earth?", previous_response_id=first.id, max_output_tokens=10, instructions="Be brief"
    )
    assert strictly(Response, second).previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens + 10
    assert sdk.responses.retrieve(second.id).output_text == second.output_text
    sdk.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(second.id)


def test_a_stream_of_a_response(g1: Client, g1_sdk: Any) -> None:
    function = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]
    g1.script.append(">\nHm.\n</think> Let me look.\n" + CALL)
    events = list(
        g1_sdk.responses.create(
            model=NAME, input="Weather?", tools=[function], reasoning={"effort": "low"}, stream=True
        )
    )
    for event in events:
        strictly(ResponseStreamEvent, event)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events if not event.type.endswith("delta")]
    text = ["output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done"]
    thought = [kind.replace("output_text", "reasoning_text") for kind in text]
    call = ["output_item.added", "function_call_arguments.done", "output_item.done"]
    assert kinds == ["created", "in_progress", *thought, *text, *call, "completed"]
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output[2].arguments == '{"city": "Köln"}'
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Let me look."
    g1.script.append("> Blue.\n\nUser:")
    output = {"type": "function_call_output", "call_id": final.output[2].call_id, "output": "blue"}
    after = g1_sdk.responses.create(model=NAME, previous_response_id=final.id, input=[output], tools=[function])
    assert (after.status, after.output_text) == ("completed", "Blue.")


def test_decisions(sdk: Any) -> None:
    answer = sdk.decisions.create(
        model=NAME,
        input="And God said, Let there be light: and there was light.",
        questions=[
            {"type": "predicate", "instructions": "It is about light", "name": "light"},
            {"type": "choice", "instructions": "Who spoke?", "choices": [{"value": "God"}, {"value": "Noah"}]},
            {"type": "choice", "instructions": "Dark?", "choices": [{"value": True}, {"value": False}]},
            {"type": "score", "instructions": "How old?", "levels": [{"label": "new"}, {"label": "old"}]},
        ],
    )
    light, who, dark, old = strictly(Decision, answer).answers
    assert light.name == "light"
    assert 0 < light.probability < 1
    assert sum(one.probability for one in who.probabilities) == pytest.approx(1)
    assert who.choice == "God"
    assert isinstance(dark.choice, bool)
    assert 0 < old.score < 1


def test_errors_have_the_classes_of_the_client(client: Client, sdk: Any) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.chat.completions.create(model=NAME, messages=QUESTION, temperature=-1)
    assert (wrong.value.param, wrong.value.code) == ("temperature", "decimal_below_min_value")
    assert wrong.value.request_id == wrong.value.response.headers["x-request-id"]
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert missing.value.code == "model_not_found"


def test_parse(sdk: Any) -> None:
    pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")

    class Answer(pydantic.BaseModel):  # type: ignore[misc]
        age: int
        good: bool

    answer = sdk.chat.completions.parse(model=NAME, messages=QUESTION, response_format=Answer, seed=1, max_tokens=200)
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Answer)


def test_parsed_calls(g1: Client, g1_sdk: Any) -> None:
    pytest.importorskip("llguidance", reason="needs llguidance (the extra grammar)")

    class Weather(pydantic.BaseModel):  # type: ignore[misc]
        city: Literal["Rom", "Ur"]
        tomorrow: bool

    g1.script.append('>\n```json\n{"name": "weather", "arguments": {"town": 3}}')
    answer = g1_sdk.chat.completions.parse(
        model=NAME,
        messages=[{"role": "user", "content": "Weather?"}],
        tools=[openai.pydantic_function_tool(Weather, name="weather")],
        parallel_tool_calls=False,
        max_tokens=200,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
