"""A node that asks a server.   [sans-IO]"""

import base64
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from edgesync.rules.effects import HttpRequest, ReplyTo
from edgesync.rules.message import Message
from edgesync.rules.node import Node, NodeConfig, NodeFailure, Outs, Place, Step
from edgesync.rules.scripts.script import Scripts
from edgesync.rules.templates import as_text, fill

TIMEOUT_S: Final = 20.0
TIMEOUT_S_MAX: Final = 300.0
URL_CHARS_MAX: Final = 4096
BODY_BYTES_MAX: Final = 256 * 1024
Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]


class RestConfig(NodeConfig, frozen=True, kw_only=True):
    rest_endpoint_url_pattern: str
    request_method: Method = "POST"
    headers: Mapping[str, str] = {}
    read_timeout_ms: int = 0
    parse_to_plain_text: bool = False
    ignore_request_body: bool = False
    enable_proxy: bool = False
    credentials: Mapping[str, Any] | None = None


class RestCall(Node):
    """Sends the data to a server; what it answers goes on by Success, or Failure from 300 on."""

    node_type = "rest.TbRestApiCallNode"
    config = RestConfig

    def __init__(self, place: Place, config: RestConfig, scripts: Scripts) -> None:
        super().__init__(place, config, scripts)
        self._config = config
        timeout_s = config.read_timeout_ms / 1000
        self._timeout_s = min(timeout_s, TIMEOUT_S_MAX) if timeout_s > 0 else TIMEOUT_S
        if config.enable_proxy:
            raise ValueError("goes through a proxy, which an edge does not do")
        kind = str((config.credentials or {}).get("type", "anonymous"))
        if kind not in ("anonymous", "basic"):
            raise ValueError(f"has credentials of type {kind!r}; anonymous or basic are possible")

    def process(self, message: Message, step: Step) -> Outs:
        config = self._config
        url = fill(config.rest_endpoint_url_pattern, message)
        checked_url(url)
        headers = {
            fill(name, message): checked_header(fill(value, message))
            for name, value in config.headers.items()
        }
        credentials = config.credentials or {}
        if credentials.get("type") == "basic":
            pair = f"{credentials.get('username', '')}:{credentials.get('password', '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        step.effect(
            HttpRequest(
                method=config.request_method, url=url, headers=headers,
                body=self._body(message, headers), timeout_s=self._timeout_s,
                reply_to=ReplyTo(self.place.key, message),
            )
        )  # fmt: skip
        return ()

    def _body(self, message: Message, headers: dict[str, str]) -> bytes:
        config = self._config
        if config.ignore_request_body or config.request_method in ("GET", "HEAD", "OPTIONS"):
            return b""
        names = {name.lower() for name in headers}
        if config.parse_to_plain_text:
            body = as_text(message.data).encode(errors="replace")
        else:
            body = msgspec.json.encode(message.data)
            if "content-type" not in names:
                headers["Content-Type"] = "application/json"
        if len(body) > BODY_BYTES_MAX:
            raise NodeFailure(f"data of {len(body)} bytes; {BODY_BYTES_MAX} are the most")
        return body


def checked_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname)
        assert parts.port is None or parts.port > 0
    except (ValueError, AssertionError):
        has_host = False
    if not has_host or len(url) > URL_CHARS_MAX or not url.isascii() or " " in url:
        raise NodeFailure(f"{url[:80]!r} is no address: http://host/… or https://host/… is needed")


def checked_header(value: str) -> str:
    if not value.isprintable() or not value.isascii():
        raise NodeFailure(f"a header cannot be {value[:40]!r}")
    return value


NODES = (RestCall,)
