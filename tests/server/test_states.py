"""``/v1/states``: a state is the past, and goes on from there as the text itself would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rwkv_cy.model.language_model import LanguageModel
from rwkv_cy.server.settings import Limits, Settings
from server.running import NAME, Client, running

KEYS = ("first-key-1", "second-key-2")
GREEDY = {"temperature": 0, "max_tokens": 12, "presence_penalty": 0, "frequency_penalty": 0}
TEXT = "In the beginning God created the heaven and"


@pytest.fixture(scope="module")
def keyed(kjv: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return a client of a server with two keys and a folder for states."""
    settings = Settings(NAME, keys=KEYS, state_folder=tmp_path_factory.mktemp("states"))
    with running(kjv, settings) as client:
        client.headers["authorization"] = f"Bearer {KEYS[0]}"
        yield client


def continued(client: Client, prompt: str, **more: object) -> object:
    """Return how a text goes on, with all log-probabilities."""
    answer = client.post("/v1/completions", {"prompt": prompt, "logprobs": 2, **GREEDY, **more})
    assert answer.status == 200, answer.data
    choice = answer.json["choices"][0]
    return choice["text"], choice["logprobs"]


def test_a_text_goes_on_from_a_state(client: Client) -> None:
    state = client.post("/v1/states", {"id": "genesis", "prompt": TEXT[:20]}).json
    assert state["id"] == "genesis"
    assert state["bytes"] > 1000
    expected = continued(client, TEXT)
    assert continued(client, TEXT[20:]) != expected
    assert continued(client, TEXT[20:], state="genesis") == expected
    fork = client.post("/v1/states/genesis/fork", {"prompt": TEXT[20:30]}).json["id"]
    assert continued(client, TEXT[30:], state=fork) == expected
    assert continued(client, TEXT[20:], state="genesis") == expected  # which is unchanged
    assert {state["id"] for state in client.get("/v1/states").json["data"]} >= {"genesis", fork}
    assert client("DELETE", f"/v1/states/{fork}").json == {"id": fork, "object": "state.deleted", "deleted": True}
    assert client.get(f"/v1/states/{fork}").status == 404
    missing = client.post("/v1/completions", {"prompt": "a", "state": fork})
    assert (missing.status, missing.error["code"]) == (404, "state_not_found")


@pytest.mark.parametrize("stream", [False, True])
def test_the_state_after_a_completion(client: Client, stream: bool) -> None:
    answer = client.post("/v1/completions", {"prompt": TEXT, "return_state": True, "stream": stream, **GREEDY})
    choices = [chunk["choices"][0] for chunk in answer.events] if stream else answer.json["choices"]
    written = "".join(choice["text"] for choice in choices)
    expected = continued(client, TEXT + written + " and")
    assert continued(client, " and", state=choices[-1]["state"]) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_goes_on_from_the_state_of_an_answer(client: Client, stream: bool) -> None:
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who created the heaven?"}]
    client.script.append(" God.\n\n")
    answer = client.post("/v1/chat/completions", {"messages": first, "return_state": True, "stream": stream})
    name = answer.events[-1]["states"][0]["state"] if stream else answer.json["choices"][0]["state"]
    follow = [{"role": "user", "content": "And the earth?"}]
    history = [*first, {"role": "assistant", "content": "God."}, *follow]
    whole = client.post("/v1/chat/completions", {"messages": history, **GREEDY}).json
    short = client.post("/v1/chat/completions", {"messages": follow, "state": name, **GREEDY}).json
    assert short["choices"][0]["message"] == whole["choices"][0]["message"]
    assert short["usage"]["prompt_tokens"] < whole["usage"]["prompt_tokens"] / 2


def test_a_state_of_messages(client: Client) -> None:
    system = [{"role": "system", "content": "Be brief."}]
    question = [{"role": "user", "content": "Who created the heaven?"}]
    client.post("/v1/states", {"id": "brief", "messages": system})
    whole = client.post("/v1/chat/completions", {"messages": system + question, **GREEDY}).json
    short = client.post("/v1/chat/completions", {"messages": question, "state": "brief", **GREEDY}).json
    assert short["choices"] == whole["choices"]


def test_states_are_saved_and_loaded(keyed: Client) -> None:
    keyed.post("/v1/states", {"id": "saved-1", "prompt": TEXT[:20]})
    assert keyed.post("/v1/states/saved-1/save", {}).json["saved"] == "saved-1"
    again = keyed.post("/v1/states/saved-1/save", {})
    assert (again.status, again.error["code"]) == (409, "state_exists")
    assert keyed.post("/v1/states/saved-1/save", {"overwrite": True}).status == 200
    assert "saved-1" in keyed.get("/v1/states").json["saved"]
    assert keyed.post("/v1/states", {"saved": "saved-1", "id": "loaded"}).status == 200
    assert continued(keyed, TEXT[20:], state="loaded") == continued(keyed, TEXT)
    assert keyed("DELETE", "/v1/states/saved-1").status == 200
    assert "saved-1" not in keyed.get("/v1/states").json["saved"]
    assert keyed.post("/v1/states", {"saved": "saved-1"}).error["code"] == "state_not_found"


def test_the_states_of_a_key_are_its_own(keyed: Client) -> None:
    keyed.post("/v1/states", {"id": "mine", "prompt": TEXT})
    keyed.post("/v1/states/mine/save", {})
    first = keyed.post("/v1/responses", {"input": "A", "max_output_tokens": 2}).json["id"]
    other = {"authorization": f"Bearer {KEYS[1]}"}
    assert keyed.get("/v1/states", **other).json == {"object": "list", "data": [], "saved": []}
    assert keyed.get("/v1/states/mine", **other).status == 404
    assert keyed("DELETE", "/v1/states/mine", **other).status == 404
    assert keyed.post("/v1/states", {"saved": "mine"}, **other).status == 404
    assert keyed.post("/v1/completions", {"prompt": "a", "state": "mine"}, **other).status == 404
    assert keyed.get(f"/v1/responses/{first}", **other).status == 404
    assert keyed.post("/v1/responses", {"input": "B", "previous_response_id": first}, **other).status == 404
    assert keyed.get("/v1/states/mine").status == 200


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x" * 65, "a.b", "ä"])
def test_names_are_not_paths(keyed: Client, name: str) -> None:
    answer = keyed.post("/v1/states", {"id": name, "prompt": "a"})
    assert answer.status == 400
    assert answer.error["param"] == "id"
    assert keyed.post("/v1/states", {"saved": name}).status == 400


def test_a_server_without_a_folder(client: Client) -> None:
    client.post("/v1/states", {"id": "here", "prompt": "a"})
    answer = client.post("/v1/states/here/save", {})
    assert answer.status == 501
    assert "--state-folder" in answer.error["message"]
    assert (answer.error["type"], answer.error["code"]) == ("not_supported_error", "not_supported")


def test_a_name_that_is_not_there_is_of_its_field(keyed: Client) -> None:
    """``param`` names the field of the body; a name in the path is none."""
    for path, body, param in (
        ("/v1/completions", {"prompt": "a", "state": "none"}, "state"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "state": "none"}, "state"),
        ("/v1/responses", {"input": "a", "previous_response_id": "none"}, "previous_response_id"),
        ("/v1/states", {"saved": "none"}, "saved"),
        ("/v1/states/none/fork", {}, None),
    ):
        answer = keyed.post(path, body)
        assert (answer.status, answer.error["param"]) == (404, param), path
    keyed.post("/v1/states", {"id": "twice", "prompt": "a"})
    assert keyed.post("/v1/states/twice/save", {}).status == 200
    answer = keyed.post("/v1/states/twice/save", {})
    assert (answer.status, answer.error["param"]) == (409, "saved")


def test_a_damaged_state(keyed: Client) -> None:
    folder = keyed.service.settings.state_folder
    assert folder is not None
    keyed.post("/v1/states", {"id": "bad", "prompt": "a"})
    keyed.post("/v1/states/bad/save", {})
    (path,) = Path(folder).glob("*/bad.state.h5")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    answer = keyed.post("/v1/states", {"saved": "bad"})
    assert answer.status == 409
    assert str(folder) not in answer.error["message"]


def test_states_take_a_limited_place(kjv: LanguageModel) -> None:
    size = kjv.initial_state().nbytes
    limits = Limits(state_bytes=3 * size)
    with running(kjv, Settings(NAME, limits=limits)) as client:
        for number in range(5):
            assert client.post("/v1/states", {"id": f"s{number}", "prompt": "a"}).status == 200
            client.get("/v1/states/s0")  # which is used and stays
        assert [state["id"] for state in client.get("/v1/states").json["data"]] == ["s3", "s4", "s0"]


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "saved": "b"}, {"prompt": ""}, {"prompt": []}, {"messages": []}])
def test_a_state_of_nothing(client: Client, body: dict[str, object]) -> None:
    assert client.post("/v1/states", body).status == 400
