"""Neuroglancer's own client, driven over its Python-integration protocol.

    /view/<dataset>/<ref>/<image>      opens a viewer of that image: makes a session and redirects to it
    /v/<session>/                      the client (from the PyPI package `neuroglancer`), and its files
    /events/<session>                  server-sent events: the client's configuration `c` and the shared state `s`
    /state/<session>                   the client's changes; refused with 412 where somebody else's came first
    /action/<session>                  keys that are bound to actions of ours
    /credentials/<session>             credentials for data sources that ask for some

Protocol: `src/python_integration/api.ts` of Neuroglancer, and `neuroglancer/server.py` of the package. A session's name
carries the address of its image, so that a hub that was restarted can make it again; what is kept in memory is only
where people have moved to since.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib.resources
import json
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from nissl.federation.access import Action
from nissl.hub.access import authorize, bearer
from nissl.hub.address import Address, UnknownError
from nissl.hub.data import locate
from nissl.hub.images import ImageInfo, image_info
from nissl.hub.site import HUB, base_url
from nissl.hub.versions import Folder

_MOST_SESSIONS = 1000
_HEARTBEAT_S = 15.0
_LARGEST_STATE = 4 << 20
_CLIENT_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.(?:js|map|css|wasm|html)")
_SCREEN = (1000, 700)  # pixels in which an image is made to fit at first; people zoom from there


@dataclass
class Session:
    """One viewer, perhaps open in several browsers, which then show the same."""

    address: Address
    state: dict[str, Any]
    generation: str
    listeners: set[asyncio.Event] = field(default_factory=set)

    def change(self, state: dict[str, Any], generation: str) -> None:
        self.state, self.generation = state, generation
        for listener in self.listeners:
            listener.set()


class Sessions:
    """The sessions that are remembered; the ones not used for longest are forgotten first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Session] = OrderedDict()
        self.closing = False
        """The hub is being stopped: event streams end, browsers connect again to whoever answers next."""

    def close(self) -> None:
        self.closing = True
        for session in self._known.values():
            for listener in session.listeners:
                listener.set()

    def get(self, name: str) -> Session | None:
        session = self._known.get(name)
        if session is not None:
            self._known.move_to_end(name)
        return session

    def add(self, name: str, session: Session) -> None:
        self._known[name] = session
        while len(self._known) > _MOST_SESSIONS:
            self._known.popitem(last=False)


SESSIONS: web.AppKey[Sessions] = web.AppKey("sessions", Sessions)


def add_routes(app: web.Application) -> None:
    app[SESSIONS] = Sessions()
    app.on_shutdown.append(_end_streams)
    app.router.add_get("/view/{tail:.+}", _open)
    app.router.add_get("/v/{session}/{file:[^/]*}", _client)
    app.router.add_get("/events/{session}", _events)
    app.router.add_post("/state/{session}", _set_state)
    app.router.add_post("/action/{session}", _action)
    app.router.add_post("/credentials/{session}", _credentials)


async def _end_streams(app: web.Application) -> None:
    app[SESSIONS].close()


def first_state(info: ImageInfo, source: str) -> dict[str, Any]:
    """The state in which an image opens: all of it in view, in the middle plane, with its own contrast."""
    extents = {axis: info.extent(axis) for axis in ("x", "y", "z")}
    width, height = (extents[axis][0] * extents[axis][1] for axis in ("x", "y"))
    finest = min(extents[axis][1] for axis in ("x", "y"))
    # Pixels are square in um; the scale counts in voxels of the finest axis in the plane.
    um_per_pixel = max(width / _SCREEN[0], height / _SCREEN[1], finest / 8)
    layer: dict[str, Any] = {
        "type": "image",
        "name": info.name,
        "source": _mixed(info, source) if "c" in info.axes else {"url": source},
        "opacity": 1,
        "blend": "additive",
        **_shading(info),
    }
    return {
        "title": info.name,
        "dimensions": {axis: [step * 1e-6, "m"] for axis, (_, step) in extents.items()},
        "position": [extents["x"][0] / 2, extents["y"][0] / 2, extents["z"][0] // 2 + 0.5],
        "crossSectionScale": um_per_pixel / finest,
        "projectionScale": max(width, height) / finest,
        "layers": [layer],
        "selectedLayer": {"layer": info.name, "visible": False},
        "layout": "xy",
    }


def _mixed(info: ImageInfo, source: str) -> dict[str, Any]:
    """A source whose channels the shader sees all at once: those of an axis that Neuroglancer knows as `c^`."""
    steps = dict(zip(info.axes, info.voxel_size_um, strict=True))
    dimensions = {
        "c^" if axis == "c" else axis: [1, ""] if axis == "c" else [steps[axis] * 1e-6, "m"] for axis in steps
    }
    return {"url": source, "transform": {"outputDimensions": dimensions}}


def _shading(info: ImageInfo) -> dict[str, Any]:
    windows = [list(channel.window) for channel in info.channels]
    if "c" not in info.axes:
        shader = "#uicontrol invlerp normalized\nvoid main() {\n  emitGrayscale(normalized());\n}\n"
        controls = {"normalized": {"range": windows[0]}} if windows else {}
        return {"shader": shader, "shaderControls": controls}
    names = ["red", "green", "blue"] if len(windows) == 3 else [f"channel{n}" for n in range(len(windows) or 1)]
    lines = [f"#uicontrol invlerp {name}(channel={number})" for number, name in enumerate(names)]
    if len(names) == 3:
        body = "emitRGB(vec3(red(), green(), blue()));"
    else:
        body = "emitGrayscale(" + " + ".join(f"{name}()" for name in names) + ");"
    controls = {
        name: {"range": window, "channel": [n]} for n, (name, window) in enumerate(zip(names, windows, strict=False))
    }
    return {
        "shader": "\n".join([*lines, "void main() {", f"  {body}", "}", ""]),
        "shaderControls": controls,
        "channelDimensions": {"c^": [1, ""]},
    }


def _source(request: web.Request, info: ImageInfo) -> str:
    """The image at its commit, so that what is in view never changes and browsers may keep it."""
    address = Address(info.address.dataset, info.commit, info.address.path)
    return f"{base_url(request)}{address.url('data')}/|zarr3:"


async def _open(request: web.Request) -> web.Response:
    found = locate(request, "/view/")
    if not isinstance(found.content, Folder) or not found.address.path.endswith(".zarr"):
        raise UnknownError(f"{found.address.path!r} is not an image: open a folder that ends in .ome.zarr")
    info = await asyncio.to_thread(image_info, request.app[HUB], found.address)
    pinned = json.dumps([info.address.dataset, info.commit, info.address.path]).encode()
    name = f"{secrets.token_urlsafe(9)}.{base64.urlsafe_b64encode(pinned).decode().rstrip('=')}"
    raise web.HTTPFound(f"{base_url(request)}/v/{name}/")


async def _session(request: web.Request) -> Session:
    """The session that the URL names, made anew where this process does not know it."""
    name = request.match_info["session"]
    known = request.app[SESSIONS].get(name)
    address = known.address if known is not None else _address(name)
    authorize(request, Action.READ, address.dataset)
    if known is not None:
        return known
    if not request.app[HUB].has(address.dataset):
        raise UnknownError(f"this hub has no dataset {address.dataset!r}")
    info = await asyncio.to_thread(image_info, request.app[HUB], address)
    # Two requests may have come here at once: the first one's session is everybody's.
    made = request.app[SESSIONS].get(name) or Session(address, first_state(info, _source(request, info)), "first")
    request.app[SESSIONS].add(name, made)
    return made


def _address(name: str) -> Address:
    _, _, encoded = name.partition(".")
    try:
        dataset, commit, path = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        return Address(str(dataset), str(commit), str(path))
    except (binascii.Error, ValueError, TypeError):
        raise UnknownError("there is no such viewer: open the image again from the list of datasets") from None


async def _client(request: web.Request) -> web.FileResponse:
    """The client's own files. They hold no data: whoever has the link may load them."""
    file = request.match_info["file"] or "index.html"
    path = _client_folder() / file
    if not _CLIENT_FILE.fullmatch(file) or not path.is_file():
        raise UnknownError(f"the viewer has no file {file!r}")
    if file == "index.html":
        await _session(request)
        return web.FileResponse(path, headers={"Cache-Control": "no-cache"})
    return web.FileResponse(path, headers={"Cache-Control": "public, max-age=31536000, immutable"})


def _client_folder() -> Path:
    return Path(str(importlib.resources.files("neuroglancer"))) / "static" / "client"


async def _events(request: web.Request) -> web.StreamResponse:
    session = await _session(request)
    client = request.query.get("c")
    if not client:
        raise web.HTTPBadRequest(text="the client's id is missing: ?c=...\n")
    seen = {"c": request.query.get("gc", ""), "s": request.query.get("gs", "") if "gs" in request.query else None}
    if seen["s"] and session.generation == "first":
        # This process has forgotten where the client had moved to; the client has not.
        session.generation = seen["s"]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    await response.prepare(request)
    changed = asyncio.Event()
    session.listeners.add(changed)
    config: dict[str, Any] = {"actions": [], "statusMessages": {}}
    try:
        while not request.app[SESSIONS].closing:
            changed.clear()
            if seen["c"] != "config":
                seen["c"] = "config"
                await _send(response, "c", config, "config")
            own = session.generation.startswith(f"{client}/")
            if seen["s"] is not None and seen["s"] != session.generation and not own:
                seen["s"] = session.generation
                await _send(response, "s", session.state, session.generation)
            try:
                await asyncio.wait_for(changed.wait(), _HEARTBEAT_S)
            except TimeoutError:
                await response.write(b": here\n\n")  # finds out whether the browser is still there
    except ConnectionError:
        pass  # the browser has gone
    finally:
        session.listeners.discard(changed)
    return response


async def _send(response: web.StreamResponse, key: str, state: dict[str, Any], generation: str) -> None:
    message = json.dumps({"k": key, "s": state, "g": generation})
    await response.write(f"data: {message}\n\n".encode())


async def _set_state(request: web.Request) -> web.Response:
    session = await _session(request)
    message = await _message(request)
    try:
        state, previous = message["s"], str(message["pg"])
        generation = f"{message['c']}/{message['g']}"
    except KeyError as error:
        raise web.HTTPBadRequest(text=f"the message lacks {error}\n") from None
    if not isinstance(state, dict):
        raise web.HTTPBadRequest(text="the state is not an object\n")
    if previous != session.generation:
        raise web.HTTPPreconditionFailed(text="the state was changed by somebody else meanwhile\n")
    session.change(state, generation)
    return web.json_response({"g": generation})


async def _action(request: web.Request) -> web.Response:
    await _session(request)
    message = await _message(request)
    # No keys are bound to actions of ours yet; a client that sends one runs with another hub's configuration.
    raise web.HTTPNotFound(text=f"this hub has no action {str(message.get('action'))!r}\n")


async def _credentials(request: web.Request) -> web.Response:
    """The asker's own token, for data sources on this hub that want it as an OAuth2 access token."""
    await _session(request)
    await _message(request)
    token = bearer(request)
    if token is None:
        raise web.HTTPNotFound(text="this hub has no credentials for somebody without a token\n")
    return web.json_response({"generation": 1, "credentials": {"tokenType": "Bearer", "accessToken": token}})


async def _message(request: web.Request) -> dict[str, Any]:
    if (request.content_length or 0) > _LARGEST_STATE:
        raise web.HTTPRequestEntityTooLarge(_LARGEST_STATE, request.content_length or 0)
    try:
        message = json.loads(await request.read())
    except ValueError:
        raise web.HTTPBadRequest(text="the message is not JSON\n") from None
    if not isinstance(message, dict):
        raise web.HTTPBadRequest(text="the message is not an object\n")
    return message
