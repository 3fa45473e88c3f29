"""Requests side by side give what each gives alone; errors, limits and cancellation concern one request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engine.helpers import eager, outcomes, random_request, same_as_alone
from rwkv_cy.engine import Engine, Event, Request
from rwkv_cy.engine.job import Job
from rwkv_cy.engine.prefixes import Prefixes
from rwkv_cy.engine.schedule import FIRST_TOKENS
from rwkv_cy.engine.speculation.plan import Drafts
from rwkv_cy.errors import BusyError, ConfigError, GenerationError, NumericalError, StateError, TokenError
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.text import LogitsProcessor, SamplingOptions
from rwkv_cy.text.sampling import Sampler

GREEDY = SamplingOptions(temperature=0)


def run(engine: Engine, requests: list[Request]) -> list[Event]:
    return list(engine.run(requests))


def test_requests_side_by_side_give_what_each_gives_alone(model: LanguageModel, heldout: bytes) -> None:
    rng = np.random.default_rng(1)
    requests = [random_request(rng, heldout) for _ in range(40)]
    engine = Engine(model, slots=5, queue=7, prompt_tokens=48)
    results = outcomes(engine.run(requests))
    assert engine.idle
    assert len(results) == len(requests)
    for number, request in enumerate(requests, 1):
        same_as_alone(model, request, results[f"request-{number}"])


def test_events_of_a_request(kjv: LanguageModel) -> None:
    events = run(Engine(kjv), [Request(prompt="In the", options=GREEDY, max_tokens=3, id="a", logprobs=2)])
    assert [event.request_id for event in events] == ["a"] * 3
    assert all(event.token is not None and len(event.text) == 1 for event in events)
    last = events[-1]
    assert last.finish_reason == "length"
    assert last.usage is not None
    assert last.timings is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (6, 3, 9)
    assert last.timings.queued >= 0
    assert last.timings.first_token >= last.timings.prefill > 0
    for event in events:
        assert event.logprobs is not None
        assert event.logprobs.top[0] == (event.token, event.logprobs.logprob)  # greedy takes the likeliest


def test_a_long_prompt_stalls_nobody(kjv: LanguageModel, heldout: bytes) -> None:
    engine = Engine(kjv, prompt_tokens=16)
    engine.submit(Request(prompt="a", max_tokens=None, stop_tokens=(), id="talks"))
    engine.step()
    engine.submit(Request(prompt=heldout[:160], max_tokens=1, report_progress=True, id="reads"))
    engine.submit(Request(prompt="b", max_tokens=1, id="short"))
    steps = [engine.step() for _ in range(11)]
    assert all(any(event.request_id == "talks" and event.token is not None for event in step) for step in steps)
    assert any(event.request_id == "short" for event in steps[0])  # its prompt is read beside the long one
    reading = [event for step in steps for event in step if event.request_id == "reads"]
    assert [event.read_tokens for event in reading[:-1]] == [15, *range(31, 160, 16)]
    assert reading[-1].finish_reason == "length"


def test_first_tokens_come_first_and_others_every_second_step(kjv: LanguageModel, heldout: bytes) -> None:
    engine = Engine(kjv, slots=8)
    engine.submit(Request(prompt="a", max_tokens=None, stop_tokens=(), id="talks"))
    engine.step()
    who = []
    for number in range(4):
        engine.submit(Request(prompt=heldout[:FIRST_TOKENS], max_tokens=1, id=f"new-{number}"))
        who.append({event.request_id for event in engine.step()})
    assert who == [{"new-0"}, {"talks", "new-1"}, {"new-2"}, {"talks", "new-3"}]
    engine.submit(Request(prompt=heldout[: FIRST_TOKENS - 1], max_tokens=1, id="short"))
    assert {event.request_id for event in engine.step()} == {"talks", "short"}


def test_prompts_alone_are_read_in_large_pieces(kjv: LanguageModel, heldout: bytes) -> None:
    engine = Engine(kjv, prompt_tokens=16)
    engine.submit(Request(prompt=heldout[:700], max_tokens=1, report_progress=True))
    assert [event.read_tokens for event in engine.step()] == [512]
    assert [event.finish_reason for event in engine.step()] == ["length"]


def test_a_text_continues_from_its_state_and_logits(model: LanguageModel) -> None:
    first = Request(prompt="In the", options=GREEDY, max_tokens=5, stop_tokens=(), return_state=True)
    head = next(iter(outcomes(Engine(model).run([first])).values()))
    assert head.last is not None
    rest = Request(
        options=GREEDY, max_tokens=6, stop_tokens=(), state=head.last.state, logits=head.last.logits, return_state=True
    )
    tail = next(iter(outcomes(Engine(model).run([rest])).values()))
    same_as_alone(model, rest, tail)
    whole = model.generate("In the", temperature=0, max_tokens=11, stop_tokens=())
    assert "".join(whole) == head.text + tail.text
    assert tail.last is not None
    assert whole.state == tail.last.state


def test_reading_a_prompt_without_generating(kjv: LanguageModel) -> None:
    (event,) = run(Engine(kjv), [Request(prompt="abc", max_tokens=0, return_state=True)])
    assert (event.token, event.text, event.finish_reason) == (None, "", "length")
    assert event.state == kjv.forward(list(b"abc"))[1]
    assert event.logits is not None
    assert event.logits.tobytes() == kjv.forward(list(b"abc"))[0].tobytes()


def test_what_ended_a_text(kjv: LanguageModel) -> None:
    text = "".join(kjv.generate("In the", temperature=0, max_tokens=20))
    stop = Request(prompt="In the", options=GREEDY, stop=["zzz", text[3:6]], logprobs=0)
    token = Request(prompt="In the", options=GREEDY, stop_tokens=[ord(text[2])], logprobs=0)
    first, second = outcomes(Engine(kjv).run([stop, token])).values()
    assert (first.text, first.reason, first.last and first.last.matched) == (text[:3], "stop_string", text[3:6])
    assert (second.text, second.reason, second.last and second.last.matched) == (text[:2], "stop_token", ord(text[2]))
    assert len(second.logprobs) == 3  # that of the stop token, too
    assert second.tokens == list(text[:2].encode())


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_cancelled(kjv: LanguageModel, heldout: bytes, steps: int) -> None:
    engine = Engine(kjv, slots=2, prompt_tokens=8)
    other = Request(prompt="In the", seed=1, max_tokens=20, id="other")
    for request in (other, Request(prompt=heldout[:40], id="gone"), Request(prompt="x", max_tokens=2, id="queued")):
        engine.submit(request)
    events = [event for _ in range(steps) for event in engine.step()]
    assert engine.cancel("gone")
    assert engine.cancel("queued")
    step = engine.step()
    assert {event.request_id for event in step if event.finish_reason == "cancelled"} == {"gone", "queued"}
    assert engine.running == 1
    assert not engine.cancel("gone")
    results = outcomes([*events, *step, *engine.run()])
    same_as_alone(kjv, other, results["other"])
    assert not engine.cancel("other")


def test_busy(kjv: LanguageModel) -> None:
    """Requests that get a free slot in the next step do not wait: a burst fills the slots and the queue."""
    engine = Engine(kjv, slots=3, queue=2)
    assert engine.capacity == 5
    for number in range(5):
        engine.submit(Request(prompt="a", max_tokens=1 if number else 2))
    with pytest.raises(BusyError, match=r"engine: expected fewer than 2 waiting requests, got 2; try again later"):
        engine.submit(Request(prompt="a"))
    engine.step()
    assert (engine.running, engine.waiting) == (1, 2)
    for _ in range(2):
        engine.submit(Request(prompt="a"))
    with pytest.raises(BusyError, match="expected fewer than 2 waiting requests, got 2"):
        engine.submit(Request(prompt="a"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": ""}, GenerationError, "prompt: expected at least one token"),
        ({"prompt": [999]}, TokenError, "expected an id from 0 to 255, got 999"),
        ({"prompt": "a", "state": 1}, StateError, "expected a State or None, got int"),
        ({"prompt": "a", "max_tokens": -1}, GenerationError, "max_tokens: expected a non-negative integer"),
        ({"prompt": "a", "logprobs": 300}, GenerationError, "logprobs: expected at most 256, got 300"),
        ({"prompt": "a", "id": "used"}, GenerationError, "id: expected one that is not in progress, got 'used'"),
    ],
)
def test_requests_that_cannot_run(
    kjv: LanguageModel, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    engine = Engine(kjv)
    engine.submit(Request(prompt="a", id="used"))
    with pytest.raises(error, match=message):
        engine.submit(Request(**arguments))  # type: ignore[arg-type]
    assert engine.waiting == 1


def test_requests_of_the_wrong_type(kjv: LanguageModel) -> None:
    with pytest.raises(GenerationError, match="request: expected a Request, got str"):
        Engine(kjv).submit("a")  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="logprobs: expected an integer from 0 to 1000"):
        Request(logprobs=5000)
    with pytest.raises(GenerationError, match="id: expected a str, got 5"):
        Request(id=5)  # type: ignore[arg-type]
    for name in ("slots", "queue", "prompt_tokens"):
        with pytest.raises(ConfigError, match=f"{name}: expected a positive integer, got 0"):
            Engine(kjv, **{name: 0})


def test_a_constraint_that_fails_ends_its_own_request(kjv: LanguageModel) -> None:
    def fails(tokens: object, logits: object) -> None:
        raise ZeroDivisionError("a fault")

    other = Request(prompt="In", seed=3, max_tokens=5)
    results = outcomes(Engine(kjv).run([Request(prompt="a", constraints=[fails], id="bad"), other]))
    bad = results.pop("bad")
    assert bad.reason == "error"
    assert bad.last is not None
    assert isinstance(bad.last.error, ZeroDivisionError)
    (result,) = results.values()
    same_as_alone(kjv, other, result)


def test_a_state_with_nan_ends_its_own_request(kjv: LanguageModel) -> None:
    state = kjv.initial_state()
    state.data[...] = np.nan
    other = Request(prompt="In", seed=3, max_tokens=5)
    results = outcomes(Engine(kjv).run([Request(prompt="a", state=state, id="bad"), other]))
    bad = results.pop("bad")
    assert bad.last is not None
    assert isinstance(bad.last.error, NumericalError)
    assert "bad: expected a finite state, got NaN" in str(bad.last.error)
    (result,) = results.values()
    same_as_alone(kjv, other, result)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_failing_choice_beside_others(kjv: LanguageModel, threads: int) -> None:
    """The others are searched together; processors are called once a token."""
    calls: dict[str, list[int]] = {"good": [], "bad": []}

    def counts(name: str, bad: bool) -> LogitsProcessor:
        def process(tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
            calls[name].append(len(tokens))
            if bad and len(tokens) == 3:
                logits[:] = -np.inf

        return process

    banned = SamplingOptions(banned_tokens=range(kjv.vocab_size))
    others = [
        Request(
            prompt="In the", seed=i, max_tokens=9, options=SamplingOptions(temperature=t, top_p=p, top_k=k), id=f"{i}"
        )
        for i, (t, p, k) in enumerate([(1, 0.9, 0), (0, 0.9, 0), (1, 1, 0), (0.7, 0.5, 5), (1e9, 0.999, 0), (1, 0, 0)])
    ]
    failing = [
        Request(prompt="In the", constraints=[counts("bad", True)], id="bad"),
        Request(prompt="In the", options=banned, id="banned"),
    ]
    good = Request(prompt="In the", seed=2, max_tokens=7, constraints=[counts("good", False)], id="good")
    engine = Engine(kjv, num_threads=threads, speculation=None)
    results = outcomes(engine.run([*others[:3], *failing, good, *others[3:]]))
    assert calls == {"good": list(range(7)), "bad": list(range(4))}
    for name, message in (("bad", "expected at least one allowed token after 3"), ("banned", "that is not banned")):
        last = results[name].last
        assert last is not None
        with pytest.raises(GenerationError, match=message):
            raise last.error or AssertionError(name)
    assert len(results["bad"].tokens) == 3
    for request in (*others, good):
        same_as_alone(kjv, request, results[request.id])


def test_a_failing_draft_beside_others(kjv: LanguageModel) -> None:
    class Fails:
        def __call__(self, tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
            pass

        def forced_tokens(self, tokens: Sequence[int]) -> Sequence[int]:
            if len(tokens) == 2:
                raise ValueError("no draft")
            return ()

    other = Request(prompt="In the", seed=2, max_tokens=7, id="other")
    engine = Engine(kjv, speculation=eager())
    failing = [Request(prompt="In the", constraints=[Fails()], id="bad")]
    results = outcomes(engine.run(failing))  # alone, so that nobody is left to run
    results |= outcomes(engine.run([replace(failing[0], id="beside"), other]))
    for name in ("bad", "beside"):
        last = results[name].last
        assert last is not None
        with pytest.raises(ValueError, match="no draft"):
            raise last.error or AssertionError(name)
    same_as_alone(kjv, other, results["other"])


def test_tokens_before_a_failing_one_of_a_draft_are_said(kjv: LanguageModel) -> None:
    def fails(tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        if len(tokens) == 6:
            raise ValueError("the seventh")

    request = Request(prompt="In the", options=GREEDY, max_tokens=9, constraints=[fails], id="a")
    found = [
        outcomes(Engine(kjv, speculation=speculation).run([request]))["a"]
        for speculation in (None, eager(), eager(model=kjv))
    ]
    assert [len(each.tokens) for each in found] == [6, 6, 6]
    assert {each.reason for each in found} == {"error"}


def test_an_interrupt_in_a_processor_loses_nothing(kjv: LanguageModel) -> None:
    armed = True

    def interrupts(tokens: Sequence[int], logits: npt.NDArray[np.float32]) -> None:
        nonlocal armed
        if armed and len(tokens) == 2:
            armed = False
            raise KeyboardInterrupt

    requests = [Request(prompt="In the", seed=i, max_tokens=6, return_state=True, id=f"r{i}") for i in range(3)]
    requests[1] = replace(requests[1], constraints=[interrupts])
    engine = Engine(kjv)
    for request in requests:
        engine.submit(request)
    events = [*engine.step(), *engine.step()]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    results = outcomes([*events, *engine.run()])
    for request in requests:
        same_as_alone(kjv, request, results[request.id])


def test_an_interrupt_loses_nothing(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(prompt="In the", seed=3, max_tokens=8, return_state=True, id="a")
    engine = Engine(kjv)
    engine.submit(request)
    events = [*engine.step(), *engine.step()]
    run_pass = kjv.passes.run

    def interrupted(parts: list[object], threads: int | None) -> object:
        run_pass(parts, threads)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(kjv.passes, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    monkeypatch.undo()
    same_as_alone(kjv, request, outcomes([*events, *engine.run()])["a"])


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Sampler, "search"),
        (Sampler, "choose"),
        (Job, "advance"),
        (Job, "verify"),
        (Job, "choose"),
        (Job, "final"),
        (Prefixes, "enter"),
        (Prefixes, "note"),
        (Prefixes, "leave"),
        (Drafts, "observe"),
    ],
)
def test_an_interrupt_at_any_call_of_a_step(
    kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, draft: bool
) -> None:
    """Texts and states of all requests are as alone, and no event of the step is lost."""
    logits, state = kjv.forward(list(b"In the"))
    requests = [
        Request(prompt="In the", seed=1, max_tokens=6, return_state=True, logprobs=2, id="prompt"),
        Request(state=state, logits=logits, seed=2, max_tokens=5, return_state=True, id="logits"),
        Request(prompt="In the", options=GREEDY, stop_tokens=[ord("d")], max_tokens=60, return_state=True, id="stop"),
        Request(prompt="and the " * 5, options=GREEDY, max_tokens=20, return_state=True, id="repeats"),
    ]
    original = getattr(owner, name)
    for number in (0, 1, 3, 8):
        calls = 0

        def interrupted(*arguments: Any, stop: int = number, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop + 1:
                raise KeyboardInterrupt
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, interrupted)
        engine = Engine(kjv, speculation=eager(model=kjv) if draft else None)
        for request in requests:
            engine.submit(request)
        events: list[Event] = []
        for _ in range(200):
            if engine.idle:
                break
            with suppress(KeyboardInterrupt):
                events += engine.step()
        monkeypatch.undo()
        assert engine.idle
        results = outcomes(events)
        for request in requests:
            same_as_alone(kjv, request, results[request.id])


def test_an_interrupt_while_requests_are_cancelled(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(kjv, slots=1)
    names = [engine.submit(Request(prompt="In the")) for _ in range(3)]
    events = engine.step()
    engine.cancel_all()
    leave, calls = Prefixes.leave, []

    def interrupted(*arguments: Any, **named: Any) -> None:
        calls.append(arguments)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        leave(*arguments, **named)

    monkeypatch.setattr(Prefixes, "leave", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    results = outcomes([*events, *engine.step()])
    assert engine.idle
    assert {name: results[name].reason for name in names} == dict.fromkeys(names, "cancelled")


def test_one_thread_steps_and_others_submit(kjv: LanguageModel) -> None:
    engine = Engine(kjv, slots=4, queue=100)
    requests = [Request(prompt="In the", seed=i, max_tokens=10, id=f"r{i}") for i in range(24)]

    def submit(some: list[Request]) -> None:
        for request in some:
            engine.submit(request)

    threads = [threading.Thread(target=submit, args=(requests[i::3],)) for i in range(3)]
    for thread in threads:
        thread.start()
    events: list[Event] = []
    while any(thread.is_alive() for thread in threads) or not engine.idle:
        events += engine.step()
    results = outcomes(events)
    for request in requests:
        same_as_alone(kjv, request, results[request.id])


def test_two_threads_must_not_step(kjv: LanguageModel) -> None:
    engine, errors = Engine(kjv), []

    def nested(tokens: object, logits: object) -> None:
        try:
            engine.step()
        except ConfigError as error:
            errors.append(str(error))

    run(engine, [Request(prompt="a", max_tokens=1, constraints=[nested])])
    assert errors == ["step: expected one thread at a time, got two; submit requests from other threads"]


def test_states_of_the_caller_are_not_modified(kjv: LanguageModel) -> None:
    _, state = kjv.forward(list(b"In"))
    before = state.copy()
    run(Engine(kjv), [Request(prompt=" the", state=state, max_tokens=4)])
    assert state == before


def test_its_text(kjv: LanguageModel) -> None:
    engine = Engine(kjv)
    engine.submit(Request(prompt="a"))
    assert repr(engine).startswith("Engine(0 running, 1 waiting, LanguageModel(")
