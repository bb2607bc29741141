"""Who reads an answer more slowly than any line is does not keep its place for ever."""

import select
import socket
from collections.abc import AsyncGenerator
from contextlib import ExitStack, suppress

import pytest
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from hubd.api import ApiSettings, server
from hubd.api.exports import Download
from hubd.api.security import Guard
from hubd.api.server import serve_http

pytestmark = pytest.mark.feature("F24")

ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.slow
async def test_an_export_that_is_read_too_slowly_gives_its_place_back(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PEER_TIMEOUT_MS", 600_000)  # the kernel would drop some
    monkeypatch.setattr(server, "CHUNK_S", 0.2)
    monkeypatch.setattr(server, "BYTES_A_SECOND", 1 << 30)
    ended = trio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        while True:
            yield b"x" * 65536

    async def answer(_request: Request) -> Response:
        place = ExitStack()
        place.callback(ended.set)
        return Download(endless(), "csv", place)

    settings = ApiSettings(port=0)
    app = Guard(Router([Route("/", answer, methods=["GET"])]), settings)
    url: str = await nursery.start(serve_http, app, settings, trio.Event())
    host, _, port = url.removeprefix("http://").rpartition(":")
    with trio.socket.socket() as slow, trio.fail_after(60):
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await slow.connect((host, int(port)))
        await slow.send(ASKED)
        while not ended.is_set():
            await slow.recv(16)
            await trio.sleep(0.05)


async def test_a_slow_reader_gets_more_before_it_is_taken_for_gone() -> None:
    """What it has to read until the kernel wants more, is no more than it has the time for."""
    with server._listen("127.0.0.1", 0) as listening, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        slow.connect(listening.getsockname())
        accepted, _ = await listening.accept()
        with socket.socket(fileno=accepted.detach()) as raw:
            raw.setblocking(False)
            for _ in range(5):  # the kernel makes more room as it goes
                with suppress(BlockingIOError):
                    while True:
                        raw.send(b"x" * 65536)
                await trio.sleep(0.02)
            nbytes, wants_more = 0, select.poll()
            wants_more.register(raw, select.POLLOUT)
            while not wants_more.poll(20):
                nbytes += len(slow.recv(4096))
    assert nbytes <= server.CHUNK_S * server.BYTES_A_SECOND


def test_a_port_that_is_taken_is_told_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"api.port {port} on 127.0.0.1: Address already in use"):
            server._listen("127.0.0.1", port)
