"""The Python-integration protocol, as Neuroglancer's client speaks it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from nissl.federation.access import Action
from tests.hub.client import ask
from tests.hub.conftest import IMAGE, SECTION, RunningHub, serving

VIEW = f"/view/{SECTION}/main/{IMAGE.image}"


def opened(hub: RunningHub) -> str:
    """The name of a new viewer session."""
    location = hub.get(VIEW).headers["Location"]
    return urlsplit(location).path.split("/")[2]


@contextmanager
def listening(url: str, session: str, client: str, seen: str = "") -> Iterator[Iterator[dict[str, Any]]]:
    """The messages of a viewer's event stream."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", f"/events/{session}?c={client}&gc=&gs={quote(seen)}")
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream"

    def messages() -> Iterator[dict[str, Any]]:
        while line := response.readline():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    try:
        yield messages()
    finally:
        connection.close()


def change(url: str, session: str, client: str, number: int, previous: str, state: object) -> int:
    body = json.dumps({"s": state, "g": number, "pg": previous, "c": client}).encode()
    return ask("POST", f"{url}/state/{session}", body=body).status


def test_an_image_opens_with_its_axes_scale_and_contrast(public_hub: RunningHub) -> None:
    with listening(public_hub.url, opened(public_hub), "a") as messages:
        assert next(messages)["k"] == "c"
        state = next(messages)["s"]
    assert state["dimensions"] == {"x": [5e-7, "m"], "y": [5e-7, "m"], "z": [3e-6, "m"]}
    assert state["position"] == [350, 300, 1.5]
    assert state["layout"] == "xy"
    (layer,) = state["layers"]
    low, high = layer["shaderControls"]["normalized"]["range"]
    assert 0 < low < 1000 < 3000 < high < 4000  # random voxels from 0 to 4000, averaged four by four
    assert f"/data/{SECTION}/" in layer["source"]["url"]
    assert "/main/" not in layer["source"]["url"]


def test_the_client_and_its_files_are_served(public_hub: RunningHub) -> None:
    session = opened(public_hub)
    page = public_hub.get(f"/v/{session}/").text
    scripts = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert scripts
    for script in scripts:
        answer = public_hub.get(f"/v/{session}/{script}")
        assert answer.status == 200
        assert "javascript" in answer.headers["Content-Type"]


@pytest.mark.parametrize("file", ["../server.py", "..%2f..%2fserver.py", "nothing.js", "%2e%2e"])
def test_nothing_else_is_served_with_the_client(public_hub: RunningHub, file: str) -> None:
    assert public_hub.get(f"/v/{opened(public_hub)}/{file}").status == 404


def test_a_second_browser_on_the_same_viewer_follows_the_first(public_hub: RunningHub) -> None:
    session = opened(public_hub)
    with listening(public_hub.url, session, "b") as messages:
        next(messages)
        first = next(messages)
        moved = {**first["s"], "position": [1, 2, 0.5]}
        assert change(public_hub.url, session, "a", 1, first["g"], moved) == 200
        followed = next(messages)
    assert (followed["s"]["position"], followed["g"]) == ([1, 2, 0.5], "a/1")


def test_a_change_that_another_one_overtook_is_refused(public_hub: RunningHub) -> None:
    session = opened(public_hub)
    assert change(public_hub.url, session, "a", 1, "first", {"layers": []}) == 200
    assert change(public_hub.url, session, "b", 1, "first", {"layers": []}) == 412


def test_each_opening_is_a_viewer_of_its_own(public_hub: RunningHub) -> None:
    assert opened(public_hub) != opened(public_hub)


def test_a_viewer_survives_a_restart_of_the_hub(public_hub: RunningHub) -> None:
    session = opened(public_hub)
    with serving(public_hub.root.path, public=True) as url:
        # A browser that has not seen anything yet gets the image again ...
        with listening(url, session, "a") as messages:
            next(messages)
            assert next(messages)["s"]["layers"]
        # ... and one that had moved on is not thrown back.
        assert change(url, session, "a", 3, "first", {"layers": []}) == 200
    with serving(public_hub.root.path, public=True) as url, listening(url, session, "a", seen="a/3") as messages:
        next(messages)
        assert change(url, session, "a", 4, "a/3", {"layers": []}) == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"s": 1, "g": 1, "pg": "first", "c": "x"}'])
def test_broken_messages_are_refused(public_hub: RunningHub, body: bytes) -> None:
    assert ask("POST", f"{public_hub.url}/state/{opened(public_hub)}", body=body).status == 400


@pytest.mark.parametrize("name", ["x", "x.y", "x.W10", "x.WzEsMiwzXQ", "%00.x"])
def test_a_session_that_names_nothing_is_unknown(public_hub: RunningHub, name: str) -> None:
    assert public_hub.get(f"/events/{name}?c=a").status == 404
    assert public_hub.get(f"/v/{name}/").status == 404


def test_a_private_hub_shows_the_viewer_only_with_a_token(private_hub: RunningHub) -> None:
    token = private_hub.token(Action.READ)
    answer = ask("GET", private_hub.url + VIEW, token=token)
    session = urlsplit(answer.headers["Location"]).path.split("/")[2]
    assert private_hub.get(f"/v/{session}/").status == 401
    assert private_hub.get(f"/events/{session}?c=a").status == 401
    assert ask("GET", f"{private_hub.url}/v/{session}/", token=token).status == 200


def test_credentials_are_the_asker_s_own_token(private_hub: RunningHub) -> None:
    token = private_hub.token(Action.READ)
    answer = ask("GET", private_hub.url + VIEW, token=token)
    session = urlsplit(answer.headers["Location"]).path.split("/")[2]
    asked = json.dumps({"key": "middleauthapp", "parameters": private_hub.url, "invalid": None}).encode()
    given = ask("POST", f"{private_hub.url}/credentials/{session}", token=token, body=asked).json
    assert given["credentials"] == {"tokenType": "Bearer", "accessToken": token}
    assert ask("POST", f"{private_hub.url}/credentials/{session}", body=asked).status == 401


def test_what_is_no_image_is_not_opened(public_hub: RunningHub) -> None:
    assert public_hub.get(f"/view/{SECTION}/main/README.md").status == 404
    assert public_hub.get(f"/view/{SECTION}/main/missing.ome.zarr").status == 404
