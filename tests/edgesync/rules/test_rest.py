"""REST calls of rules: what is asked, what goes on, and servers that behave badly."""

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync.errors import ConfigError
from edgesync.rules.effects import HttpRequest, ReplyTo
from edgesync.rules.message import Message
from edgesync.rules.outward import UNDER_WAY_MAX, Servers
from tests.edgesync.rules.chains import Node, Site, behind, exported
from tests.edgesync.rules.test_part import opened, reading, site
from tests.sites import until

Handler = Callable[[trio.SocketStream], Awaitable[None]]


def rest(**configuration: Any) -> Node:
    found = {"restEndpointUrlPattern": "http://h/$[t]?d=${deviceName}", "requestMethod": "POST"}
    return ("rest.TbRestApiCallNode", "Ask", {**found, **configuration})


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def request_of(stream: trio.SocketStream) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found:
        found += await stream.receive_some(4096)
    head, _, body = found.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < size:
        body += await stream.receive_some(4096)
    return head + b"\r\n\r\n" + body


def answering(raw: bytes, seen: list[bytes] | None = None) -> Handler:
    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            found = await request_of(stream)
            if seen is not None:
                seen.append(found)
            await stream.send_all(raw)

    return handle


def test_what_is_asked_is_filled_from_the_message() -> None:
    credentials = {"type": "basic", "username": "u", "password": "p"}
    site = Site(
        behind(rest(headers={"X-Who": "${deviceName}"}, credentials=credentials), "Success")
    )
    (asked,) = site.post(t=7)
    assert isinstance(asked, HttpRequest)
    assert (asked.method, asked.url, asked.body) == ("POST", "http://h/7?d=d1", b'{"t":7}')
    assert asked.headers == {
        "X-Who": "d1", "Authorization": "Basic dTpw", "Content-Type": "application/json",
    }  # fmt: skip
    site = Site(behind(rest(restEndpointUrlPattern="$[where]"), "Success"))
    for where in ("ftp://x/", "http:///x", "http://h:99999/", "http://h/a b", "http://h/\u00e4"):
        site.post(where=where)
    assert len(site.came_to("Failure")) == 5
    site = Site(behind(rest(headers={"X": "$[x]"}), "Success"))
    site.post(x="a\r\nEvil: yes")
    assert "a header cannot be" in site.came_to("Failure")[0].metadata["error"]
    with pytest.raises(ConfigError, match="anonymous or basic"):
        Site(exported([rest(credentials={"type": "cert.PEM"})]))


@pytest.mark.feature("S18")
async def test_what_a_server_answers_goes_on_in_the_chain(tmp_path: Path) -> None:
    push: Node = ("edge.TbMsgPushToCloudNode", "Push", {})
    log: Node = ("action.TbLogNode", "Failed", {"jsScript": "return metadata.statusCode;"})
    seen: list[bytes] = []
    good = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-N: 1\r\n\r\n{"factor":2}'
    good = good.replace(b": 11", b": 12")
    async with serving(answering(good, seen)) as url:
        chain = exported([rest(restEndpointUrlPattern=f"{url}/f"), push, log],
                         [(0, 1, "Success"), (0, 2, "Failure")])  # fmt: skip
        async with opened(tmp_path, site(tmp_path, chain)) as node:
            await node.ingest([reading("t", 7)])
            await until(lambda: bool(node.latest()))
            (only,) = seen
            assert only.startswith(b"POST /f HTTP/1.1\r\n")
            assert only.endswith(b'\r\n\r\n{"t":7}')
            assert [(one.key, one.value) for one in node.latest()] == [("factor", 2)]


async def outcome(
    url: str, timeout_s: float = 5.0, headers: dict[str, str] | None = None
) -> tuple[str, Message]:
    message = Message(type="T", originator=None, data={"a": 1}, metadata={}, time_ns=0)  # type: ignore[arg-type]
    found: list[tuple[str, Message]] = []
    servers = Servers(lambda _, relation, answered: found.append((relation, answered)))
    request = HttpRequest(
        method="POST", url=url, headers=headers or {}, body=b"{}", timeout_s=timeout_s,
        reply_to=ReplyTo("n", message),
    )  # fmt: skip
    await servers.ask(request)
    return found[0]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"HTTP/1.1 503 Away\r\nContent-Length: 4\r\n\r\nlate", "answered 503 Away"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "answered 301"),
        (b"", "closed"),
        (b"nonsense\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", ""),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 300_000, "more than"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, ""),
    ],
)
async def test_a_server_that_behaves_badly_is_a_failure(raw: bytes, problem: str) -> None:
    async with serving(answering(raw)) as url:
        relation, message = await outcome(url)
    assert relation == "Failure"
    assert problem in message.metadata["error"]
    assert message.metadata["error"]


async def test_a_server_that_is_not_there_or_never_answers_is_a_failure() -> None:
    relation, message = await outcome("http://127.0.0.1:1/")
    assert (relation, message.data) == ("Failure", {"a": 1})

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with serving(silent) as url:
        relation, message = await outcome(url, timeout_s=0.2)
    assert message.metadata["error"] == "no answer within 0.2 s"


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://a..b/", {}),
        (f"http://{'a' * 70}.com/", {}),
        ("http://.local/", {}),
        ("http://a\0b/", {}),
        ("http://127.0.0.1/", {"\u00fc": "x"}),
        ("http://127.0.0.1/", {"a b": "x"}),
    ],
)
async def test_what_no_server_can_be_asked_is_a_failure(url: str, headers: dict[str, str]) -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as here:
        asked = url.replace("http://127.0.0.1/", here)
        relation, message = await outcome(asked, headers=headers)
    assert relation == "Failure"
    assert message.metadata["error"]


async def test_only_so_many_requests_are_under_way() -> None:
    arrived = 0

    async def silent(stream: trio.SocketStream) -> None:
        nonlocal arrived
        arrived += 1
        await trio.sleep_forever()

    found: list[str] = []
    servers = Servers(lambda _, relation, answered: found.append(answered.metadata["error"]))
    message = Message(type="T", originator=None, data={}, metadata={}, time_ns=0)  # type: ignore[arg-type]
    async with serving(silent) as url, trio.open_nursery() as nursery:
        request = HttpRequest(
            method="GET",
            url=url,
            headers={},
            body=b"",
            timeout_s=30,
            reply_to=ReplyTo("n", message),
        )
        for _ in range(UNDER_WAY_MAX + 3):
            nursery.start_soon(servers.ask, request)
        await until(lambda: len(found) == 3)
        assert set(found) == {f"{UNDER_WAY_MAX} requests are under way already"}
        await until(lambda: arrived == UNDER_WAY_MAX)
        nursery.cancel_scope.cancel()
    assert json.dumps(found)
