"""What the HTTP side stands of peers who send too much, too slowly, or go in the middle of it."""

import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message

from edgesync_transport import descriptors
from hubd.api import ApiSettings
from hubd.api.security import BODY_BYTES_A_SECOND, BODY_S, HEAD_BYTES_MAX, HEAD_LINES_MAX, Guard
from hubd.api.server import serve_http

pytestmark = pytest.mark.feature("F24")


ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def take(request: Request) -> Response:
    return Response(str(len(await request.body())))


async def served(nursery: trio.Nursery) -> tuple[str, int]:
    settings = ApiSettings(port=0)
    app = Guard(Router([Route("/", take, methods=["GET", "POST"])]), settings)
    url: str = await nursery.start(serve_http, app, settings, trio.Event())
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


async def say(address: tuple[str, int], raw: bytes) -> bytes:
    """Send it at once and return what comes back."""
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(raw)
        return bytes(await stream.receive_some(65536))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"X: 1\r\n" * (HEAD_LINES_MAX - 1), b"200"),
        (b"X: 1\r\n" * HEAD_LINES_MAX, b"431"),
        (b"X: " + b"x" * (HEAD_BYTES_MAX - 100) + b"\r\n", b"200"),
        (b"X: " + b"x" * HEAD_BYTES_MAX + b"\r\n", b"431"),
        (b"X: " + b"x" * 60_000 + b"\r\n", b"431"),
    ],
)
async def test_a_head_that_comes_at_once_has_the_same_limits(
    nursery: trio.Nursery, headers: bytes, status: bytes
) -> None:
    address = await served(nursery)
    for _ in range(3):
        raw = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n"
        assert (await say(address, raw)).startswith(b"HTTP/1.1 " + status)


async def test_a_target_counts_as_part_of_the_head(nursery: trio.Nursery) -> None:
    address = await served(nursery)
    raw = b"GET /?" + b"x" * HEAD_BYTES_MAX + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert (await say(address, raw)).startswith(b"HTTP/1.1 431")


async def test_whoever_goes_in_the_middle_of_a_body_costs_no_line(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    address = await served(nursery)
    for _ in range(3):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
            )
    assert (await say(address, ASKED)).startswith(b"HTTP/1.1 200")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def post(body: Callable[[], Message], seconds: float, chunks: int) -> tuple[int, Any]:
    """Send a body in pieces, `seconds` apart; returns status and answer."""
    left, sent = chunks, list[Message]()

    async def receive() -> Message:
        nonlocal left
        await trio.sleep(seconds)
        left -= 1
        return {**body(), "more_body": left > 0}

    async def send(message: Message) -> None:
        sent.append(message)

    app = Guard(Router([Route("/", _length, methods=["POST"])]), ApiSettings())
    scope = {
        "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


async def _length(request: Request) -> Response:
    from hubd.api.errors import ApiError, answer

    try:
        return Response(json.dumps({"bytes": len(await request.body())}))
    except ApiError as error:
        return answer(error)


async def test_a_body_that_trickles_ends_the_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    status, answer = await post(lambda: {"type": "http.request", "body": b"x"}, 1.0, 10_000)
    assert status == 408
    assert str(BODY_BYTES_A_SECOND) in answer["remedy"]
    assert BODY_S <= trio.current_time() <= BODY_S + 2


async def test_a_body_that_never_comes_ends_the_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    status, _ = await post(lambda: {"type": "http.request", "body": b"x"}, 1e6, 1)
    assert status == 408
    assert trio.current_time() == BODY_S


async def test_a_slow_modem_may_upload_what_is_large(
    autojump_clock: trio.testing.MockClock,
) -> None:
    piece = b"x" * 2 * BODY_BYTES_A_SECOND
    status, answer = await post(lambda: {"type": "http.request", "body": piece}, 1.5, 60)
    assert (status, answer) == (200, {"bytes": 60 * len(piece)})


@pytest.mark.slow
async def test_connections_over_the_limit_wait_and_silent_ones_go(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "limit", lambda: 64)
    monkeypatch.setattr(descriptors, "is_reserved", lambda _number: False)
    address = await served(nursery)
    silent = [socket.create_connection(address) for _ in range(40)]
    assert (await say(address, ASKED)).startswith(b"HTTP/1.1 200")
    for connection in silent:
        connection.close()
    assert any("http: 24 connections" in one for one in descriptors.problems())
