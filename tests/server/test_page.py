"""The page: it talks to the server, in a real browser, and to nobody else."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Page, browser, find_chromium
from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server import app
from rwkv_cy.server.settings import Limits, Settings
from server.running import NAME, Client, running

PAGE = Path(app.__file__).with_name("page.html")


def test_the_page_loads_nothing_from_elsewhere() -> None:
    text = PAGE.read_text("utf-8")
    assert re.findall(r"https?://|//[a-z]|@import|url\(", text.replace("  // never", "")) == []
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with browser(program) as page:
        yield page


@pytest.fixture
def server(kjv: LanguageModel) -> Iterator[Client]:
    with running(kjv, Settings(NAME, limits=Limits(max_tokens=10**6)), chat="g1") as client:
        yield client


def wait_for(page: Page, expression: str) -> None:
    deadline = time.monotonic() + 300
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, page.evaluate("document.body.innerText")
        time.sleep(0.02)


def send(page: Page, text: str) -> None:
    page.evaluate(f"at('input').value = {text!r}; at('form').requestSubmit();")


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 1200])
def test_a_conversation(chromium: Page, server: Client, dark: bool, width: int) -> None:
    chromium.open(f"{server.url}/", width, dark)
    wait_for(chromium, f"at('model').textContent === {NAME!r}")
    chromium.evaluate("at('thinking').value = 'high'")
    server.script.append(">\nHm.\n</think> <b>Four</b> & Grüße\n\nUser:")
    send(chromium, "2+2? <img src=x onerror=alert(1)>")
    wait_for(chromium, "document.querySelectorAll('.note').length === 1 && !running")
    text = chromium.evaluate("at('log').innerText")
    assert "<b>Four</b> & Grüße" in text
    assert "2+2? <img src=x onerror=alert(1)>" in text
    assert chromium.evaluate("document.querySelector('details .turn').textContent") == "Hm."
    chromium.evaluate("at('thinking').value = ''")
    server.script.append("> Five.\n\nUser:")
    chromium.evaluate("at('again').click()")
    wait_for(chromium, "at('log').innerText.includes('Five.') && !running")
    assert "Four" not in chromium.evaluate("at('log').innerText")
    send(chromium, "And then?")
    wait_for(chromium, "messages.length === 3 && running && !at('stop').hidden")
    chromium.evaluate("at('stop').click()")
    wait_for(chromium, "!running && messages.length === 4")
    chromium.evaluate("at('new').click()")
    assert chromium.evaluate("at('log').children.length + messages.length") == 0
    assert chromium.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.messages == []
    assert {request.split("/")[2] for request in chromium.requests if request.startswith("http")} == {
        f"{server.host}:{server.port}"
    }


@pytest.mark.browser
def test_a_server_with_a_key(chromium: Page, kjv: LanguageModel) -> None:
    with running(kjv, Settings(NAME, keys=("first-key-1",))) as server:
        chromium.open(f"{server.url}/", 800, dark=False)
        wait_for(chromium, "at('model').textContent.includes('API key is missing')")
        chromium.evaluate("at('key').value = 'first-key-1'; at('key').dispatchEvent(new Event('change'));")
        wait_for(chromium, f"at('model').textContent === {NAME!r}")
        server.script.append(" Yes.\n\n")
        send(chromium, "Hello")
        wait_for(chromium, "at('log').innerText.includes('Yes.')")
