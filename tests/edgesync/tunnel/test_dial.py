"""How the edge connects to what the hub may reach."""

import socket
import threading
from typing import Any

import pytest
import trio

from edgesync.tunnel.dial import LOOKUPS_MAX
from edgesync.tunnel.part import OpenTunnel
from edgesync_transport.messages import (
    Message,
    TunnelClose,
    TunnelCode,
    TunnelData,
    TunnelOpen,
)
from edgesync_transport.tunnel.end import TunnelEnd
from edgesync_transport.tunnel.stream import StreamFault
from edgesync_transport.tunnel.tunnel import Tunnel
from tests.edgesync.sync.test_driver import until
from tests.edgesync.tunnel.tunnel_hub import echo, target

pytestmark = pytest.mark.feature("S33")


def to(host: str, port: int) -> OpenTunnel:
    asked = TunnelOpen(epoch=1, tunnel=7, host=host, port=port, for_s=60.0)
    tunnel = Tunnel(1, 7, now=0.0, for_s=60.0, connections=8)
    return OpenTunnel(asked, TunnelEnd(tunnel, lambda _message: None), 0, trio.Event())


async def test_names_that_dns_does_not_answer_take_few_threads_and_none_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, answered, asked = socket.getaddrinfo, threading.Event(), list[str]()

    def mute(host: str, port: int, *more: Any, **named: Any) -> Any:
        if "NUMERICHOST" in str(named) or (len(more) == 4 and more[3] & socket.AI_NUMERICHOST):
            return real(host, port, *more, **named)
        asked.append(host)
        answered.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", mute)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3 * LOOKUPS_MAX):
                nursery.start_soon(to("plc.local", 502).connect)
            await until(lambda: len(asked) >= LOOKUPS_MAX)
            nursery.cancel_scope.cancel()
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        assert len(asked) == LOOKUPS_MAX
    finally:
        answered.set()


async def test_each_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with target(echo) as port:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", one)) for one in (1, port)
        ]
        real = socket.getaddrinfo

        def two(host: str, *more: Any, **named: Any) -> Any:
            return found if host == "plc.local" else real(host, *more, **named)

        monkeypatch.setattr(socket, "getaddrinfo", two)
        async with await to("plc.local", 502).connect() as stream:
            await stream.send_all(b"here")
            assert await stream.receive_some() == b"here"
        del found[1:]
        with pytest.raises(StreamFault, match=r"plc\.local:502: .*refused"):
            await to("plc.local", 502).connect()


async def test_what_nobody_thought_of_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = list[Message]()
    tunnel = Tunnel(1, 7, now=0.0, for_s=60.0, connections=8)
    end = TunnelEnd(tunnel, told.append)
    hello = TunnelData(epoch=1, tunnel=7, stream=1, offset=0, taken=0)
    stream = end.hear(hello, accepts=True)
    assert stream is not None

    async def fails() -> trio.SocketStream:
        raise RuntimeError("nobody thought of it")

    await end.serve(stream, fails)
    (closed,) = told
    assert isinstance(closed, TunnelClose)
    assert (closed.stream, closed.code) == (1, TunnelCode.RESET)
    assert (tunnel.streams, end.ended) == ({}, None)
    assert "nobody thought of it" in caplog.text
