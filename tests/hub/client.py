"""A small HTTP client that sends exactly the path it is given: real clients tidy `..` away before they send."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the hub sent
        return json.loads(self.body)


def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    body: bytes | None = None,
) -> Answer:
    """One request; redirects are not followed. token: sent as the password of basic authentication."""
    parts = urlsplit(url)
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        target = url[len(f"{parts.scheme}://{parts.netloc}") :] or "/"
        connection.request(method, target, body=body, headers=sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()
