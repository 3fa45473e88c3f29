"""The engine behind asyncio: streams of events, cancellation, and the end of its thread."""

from __future__ import annotations

import asyncio
import gc

import pytest

from engine.helpers import outcomes, same_as_alone
from rwkv_cy.engine import AsyncEngine, Engine, Event, EventStream, Request
from rwkv_cy.errors import BusyError, ConfigError
from rwkv_cy.model.language_model import LanguageModel


async def collect(stream: EventStream) -> list[Event]:
    return [event async for event in stream]


async def until_idle(engine: Engine) -> None:
    while not engine.idle:
        await asyncio.sleep(0.001)


def test_streams(kjv: LanguageModel) -> None:
    requests = [Request(prompt="In the", seed=i, max_tokens=12, id=f"r{i}") for i in range(20)]

    async def main() -> None:
        async with AsyncEngine(Engine(kjv, slots=3)) as front:
            results = await asyncio.gather(*(collect(front.submit(request)) for request in requests))
        for request, events in zip(requests, results, strict=True):
            same_as_alone(kjv, request, outcomes(events)[request.id])

    asyncio.run(main())


@pytest.mark.parametrize("way", ["close", "task", "garbage"])
def test_who_stops_listening_frees_the_slot(kjv: LanguageModel, way: str) -> None:
    other = Request(prompt="In the", seed=1, max_tokens=40, id="other")

    async def main() -> None:
        engine = Engine(kjv, slots=2)
        async with AsyncEngine(engine) as front:
            kept = asyncio.create_task(collect(front.submit(other)))
            endless = Request(prompt="a", max_tokens=None, stop_tokens=(), id="endless")
            stream = front.submit(endless)
            assert (await anext(stream)).request_id == "endless"
            if way == "close":
                stream.close()
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            elif way == "task":
                task = asyncio.create_task(collect(stream))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            del stream
            gc.collect()
            same_as_alone(kjv, other, outcomes(await kept)["other"])
            await asyncio.wait_for(until_idle(engine), 30)

    asyncio.run(main())


def test_busy_and_closed(kjv: LanguageModel) -> None:
    async def main() -> None:
        engine = Engine(kjv, slots=1, queue=1)
        front = AsyncEngine(engine)
        with pytest.raises(ConfigError, match="expected a running engine, got one that is not open"):
            front.submit(Request(prompt="a"))
        async with front:
            endless = Request(prompt="a", max_tokens=None, stop_tokens=())
            first = front.submit(endless)
            await anext(first)
            second = front.submit(endless)
            with pytest.raises(BusyError, match="try again later"):
                front.submit(endless)
        rest = [*await collect(first), *await collect(second)]  # closing ends both
        assert [event.finish_reason for event in rest if event.finish_reason] == ["cancelled", "cancelled"]
        with pytest.raises(ConfigError, match="got one that is not open"):
            front.submit(endless)

    asyncio.run(main())


def test_a_thread_that_fails_says_so(kjv: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncEngine(Engine(kjv)) as front:
            stream = front.submit(Request(prompt="a", max_tokens=None, stop_tokens=()))
            await anext(stream)

            def fails() -> list[Event]:
                raise ZeroDivisionError("a fault")

            monkeypatch.setattr(front.engine, "step", fails)
            with pytest.raises(ZeroDivisionError):
                await collect(stream)
            with pytest.raises(ConfigError, match="expected a running engine, got a fault"):
                front.submit(Request(prompt="a"))

    asyncio.run(main())
