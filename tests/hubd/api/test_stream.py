"""Server-sent events through a real server on a real socket."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape

import httpx2
import msgspec
import pytest
import trio

from edgesync.model import Value, series_id
from hubd.api import ApiSettings, Context, make_app
from hubd.api.server import serve_http
from hubd.project import live as live_module
from hubd.project.live import Update
from tests.hubd.still import StillHub

POWER = series_id("meter0", "ActivePower")


@pytest.fixture
async def url(context: Context, nursery: trio.Nursery) -> AsyncIterator[str]:
    stop = trio.Event()
    served = msgspec.structs.replace(context, settings=ApiSettings(port=0))
    yield await nursery.start(serve_http, make_app(served), served.settings, stop)
    stop.set()


def update(edge: str, key: str, value: Value, points: int) -> Update:
    return Update(
        edge=edge, series=series_id("meter0", key), entity="meter0", key=key, unit="W",
        time_ns=points, value=value, points=points,
    )  # fmt: skip


class Listener:
    """Reads a stream off a socket. HTTP/1.0, so that the body comes as it is, without chunks."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def part(self, end: bytes) -> str:
        """Everything up to `end`, which is dropped."""
        while end not in self._buffer:
            more = await self._stream.receive_some()
            assert more, f"the stream ended: {self._buffer!r}"
            self._buffer += more
        part, _, self._buffer = self._buffer.partition(end)
        return part.decode()

    async def event(self) -> tuple[str, str]:
        """The next event as (name, data); comments and the like are passed over."""
        while True:
            lines = (await self.part(b"\n\n")).split("\n")
            data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
            if data:
                names = [x.removeprefix("event: ") for x in lines if x.startswith("event: ")]
                return "".join(names), "\n".join(data)


@asynccontextmanager
async def listening(url: str, context: Context) -> AsyncIterator[Listener]:
    """Yield a listener to a stream that is already being served."""
    before = context.live.watchers
    address, slash, path = url.removeprefix("http://").partition("/")
    host, port = address.split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        request = f"GET {slash}{path} HTTP/1.0\r\nHost: {address}\r\n\r\n"
        await stream.send_all(request.encode())
        listener = Listener(stream)
        with trio.fail_after(100):
            head = (await listener.part(b"\r\n\r\n")).lower()
            assert " 200 " in head
            assert "content-type: text/event-stream" in head
            assert context.live.watchers == before + 1
            yield listener


async def test_readings_arrive_as_they_are_published(url: str, context: Context) -> None:
    query = f"/api/v1/live?edge=barn&series={POWER:016x}"
    async with listening(url + query, context) as stream:
        context.live.publish(
            [update("shop", "ActivePower", 1.0, 1), update("barn", "Frequency", 2.0, 2)]
        )
        context.live.publish([update("barn", "ActivePower", 3.5, 7)])
        name, data = await stream.event()
        assert name == "reading"
        reading = json.loads(data)
        assert (reading["value"], reading["points"], reading["key"]) == (3.5, 7, "ActivePower")
        assert reading["series"] == f"{POWER:016x}"


async def test_a_slow_listener_gets_the_newest_value_and_can_tell_that_some_are_missing(
    url: str, context: Context
) -> None:
    async with listening(url + "/api/v1/live?edge=barn", context) as stream:
        for points in range(1, 1001):
            context.live.publish([update("barn", "ActivePower", float(points), points)])
        _, data = await stream.event()
        assert json.loads(data)["points"] == 1000


async def test_values_that_are_no_numbers_are_null(url: str, context: Context) -> None:
    async with listening(url + "/api/v1/live", context) as stream:
        context.live.publish([update("barn", "ActivePower", float("nan"), 1)])
        _, data = await stream.event()
        assert json.loads(data)["value"] is None


async def test_a_line_separator_in_a_text_is_no_end_of_a_line(url: str, context: Context) -> None:
    text = "one\u2028two\x85three"
    async with listening(url + "/api/v1/live", context) as stream:
        context.live.publish([update("barn", "ActivePower", text, 1)])
        _, data = await stream.event()
        assert json.loads(data)["value"] == text


async def test_news_of_an_edge_are_told(url: str, context: Context) -> None:
    async with listening(url + "/api/v1/live?edge=barn", context) as stream:
        context.live.touch("shop")
        context.live.touch("barn")
        assert await stream.event() == ("edge", '{"edge":"barn"}')


async def test_the_place_of_a_listener_who_left_is_free_again(
    url: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "WATCHERS_MAX", 1)
    async with listening(url + "/api/v1/live", context):
        async with httpx2.AsyncClient() as client:
            refused = await client.get(url + "/api/v1/live")
        assert refused.status_code == 503
        assert "close another" in refused.json()["remedy"]
    with trio.fail_after(100):
        while context.live.watchers:
            await trio.lowlevel.checkpoint()
    async with listening(url + "/api/v1/live", context):
        pass


@pytest.mark.parametrize("path", ["/ui/fleet", "/ui/edges/barn", "/ui/events?edge=barn"])
async def test_pages_are_streamed_as_markup(url: str, context: Context, path: str) -> None:
    async with listening(url + path, context) as stream:
        name, data = await stream.event()
        assert not context.live.watches("barn")  # nobody makes readings for it
    assert name == ""
    assert "<table" in data
    assert "barn" in data


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000,
    b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/v1/edges HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(300),
    b"\r\n" * 5000,
]


async def test_garbage_on_the_socket_ends_that_connection_only(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    for garbage in GARBAGE:
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            try:
                await stream.send_all(garbage)
                with trio.move_on_after(0.2):
                    await stream.receive_some()
            except trio.BrokenResourceError:
                pass
        async with httpx2.AsyncClient() as client:
            assert (await client.get(url + "/healthz")).status_code == 200


@pytest.mark.parametrize("page", ["/", "/edges/barn"])
async def test_a_stream_begins_where_its_page_stands(url: str, context: Context, page: str) -> None:
    async with httpx2.AsyncClient() as client:
        html = (await client.get(url + page, headers={"Accept": "text/html"})).text
    found = re.search(r'hx-sse:connect="([^"]+)"', html)
    assert found is not None
    path = unescape(found[1])
    hub = context.hub
    assert isinstance(hub, StillHub)
    hub.all[0] = msgspec.structs.replace(hub.all[0], rtt_s=0.5)
    async with listening(url + path, context) as stream:
        name, data = await stream.event()
    assert name == "cells"
    told = json.loads(data)
    assert list(told.values()) == ["500 ms"]
    assert "<table" not in data
    with trio.fail_after(20):
        while context.live.watchers:
            await trio.lowlevel.checkpoint()
    async with listening(url + path, context) as stream:  # a page is handed out once
        name, data = await stream.event()
    assert name == ""
    assert "<table" in data
