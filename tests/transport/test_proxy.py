"""A link through a proxy: what it is asked, what it refuses, and a hub that comes and goes."""

import base64
import contextlib
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from edgesync.demo.site import free_ports
from edgesync_transport import dealer, proxy
from edgesync_transport.dealer import Cause, LinkLost, open_connect
from edgesync_transport.keys import KeyPair, new_key_pair
from edgesync_transport.messages import Bye, Ping
from edgesync_transport.proxy import ProxyError, ProxyFault
from tests.faults.forward import Forward, open_forward
from tests.transport.hub import QUICK, Hub, end_of, eventually, open_hub, run_hub

pytestmark = pytest.mark.feature("K3", "S6", "S31")

SCHEMES = ("http", "socks5")
SECRET = "p@ss:w/rd"
CREDENTIALS = "ana:p%40ss%3Aw%2Frd"


@pytest.fixture(params=SCHEMES)
async def forward(request: pytest.FixtureRequest) -> AsyncIterator[Forward]:
    async with open_forward(request.param, "ana", SECRET) as found:
        yield found


def test_a_proxy_is_named_without_its_credentials() -> None:
    found = proxy.parse(f"http://{CREDENTIALS}@proxy.example:3128")
    assert (found.user, found.password) == ("ana", SECRET)
    assert str(found) == "http://proxy.example:3128"
    assert SECRET not in repr(found)
    assert proxy.parse(found.url()) == found
    assert str(proxy.parse("socks5h://[2001:db8::1]:1080/")) == "socks5://[2001:db8::1]:1080"


@pytest.mark.parametrize("text", [
    "proxy:3128", "https://u:secret@proxy:443", "socks4://proxy:1", "http://u:secret@proxy",
    "http://u:secret@proxy:99999", "http://u:secret@proxy:1/path", "http://:3128", "http://[::1:1",
    f"http://u:{'secret' * 50}@proxy:1",
])  # fmt: skip
def test_what_is_no_proxy_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="proxy") as refused:
        proxy.parse(text)
    assert "secret" not in str(refused.value)


def test_the_environment_counts_where_the_setting_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy",
                 "no_proxy"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    assert proxy.chosen("environment", "hub.example") is None
    monkeypatch.setenv("ALL_PROXY", "socks5://socks:1080")
    assert str(proxy.chosen("environment", "hub.example")) == "socks5://socks:1080"
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    assert str(proxy.chosen("environment", "hub.example")) == "http://proxy:3128"
    monkeypatch.setenv("NO_PROXY", "localhost,.example")
    assert proxy.chosen("environment", "hub.example") is None
    assert proxy.chosen("", "elsewhere") is None
    monkeypatch.setenv("HTTPS_PROXY", "ftp://u:secret@proxy:21")
    with pytest.raises(ValueError, match="HTTPS_PROXY or ALL_PROXY") as refused:
        proxy.chosen("environment", "elsewhere")
    assert "secret" not in str(refused.value)


def through(
    hub: Hub, keys: KeyPair, forward: Forward, credentials: str = CREDENTIALS, **more: Any
) -> Any:
    return open_connect(
        more.get("address", hub.address), server_key=hub.keys.public, keys=keys, settings=QUICK,
        proxy=proxy.parse(forward.url(credentials)),
    )  # fmt: skip


async def test_a_link_goes_through_and_its_goodbye_arrives(forward: Forward) -> None:
    """The hub's name is the proxy's to resolve: nobody else knows this one."""
    async with open_hub() as hub:
        forward.names["hub.invalid"] = hub.target
        address = f"tcp://hub.invalid:{hub.target[1]}"
        async with through(hub, hub.admit("barn"), forward, address=address) as connect:
            link = await connect()
            peer = await hub.hears(link)
            assert peer.edge == "barn"
            await hub.hearing.send(peer, Ping(epoch=1, token=7, at_ns=0))
            assert await link.receive() == Ping(epoch=1, token=7, at_ns=0)
            await link.send(Bye(epoch=1, reason="done"))
            await link.aclose()
            _, message = await hub.hearing.receive()
            assert isinstance(message, Bye)
        assert forward.asked == [("hub.invalid", hub.target[1])]
        await eventually(lambda: not forward.lives)


async def test_a_connection_that_ends_behind_the_proxy_is_lost(forward: Forward) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        hub = await nursery.start(run_hub, stop)
        async with through(hub, hub.admit("barn"), forward) as connect:
            link = await connect()
            await hub.hears(link)
            stop.set()
            assert (await end_of(link)).cause is Cause.LOST


async def reached(hub: Hub, forward: Forward, credentials: str = CREDENTIALS) -> LinkLost:
    async with through(hub, new_key_pair(), forward, credentials) as connect:
        link = await connect()
        with pytest.raises(LinkLost) as lost:
            await link.wait_up()
        await link.aclose()
    assert SECRET not in str(lost.value)
    assert "secret" not in str(lost.value)
    return lost.value


async def test_who_is_refused_is_told_by_whom_and_why(forward: Forward) -> None:
    async with open_hub() as hub:
        for credentials in ("", "ana:secret"):
            lost = await reached(hub, forward, credentials)
            assert (lost.cause, lost.retry_after_s) == (Cause.PROXY_REFUSED, None)
            assert ("407" if forward.scheme == "http" else "user and password") in str(lost)
            assert forward.url() in str(lost)
        forward.refusal = "403 Forbidden" if forward.scheme == "http" else "2"
        lost = await reached(hub, forward)
        assert lost.cause is Cause.PROXY_REFUSED
        assert ("403 Forbidden" if forward.scheme == "http" else "not allowed") in str(lost)
        forward.refusal = ""
        # The proxy lets it through, and the hub does not know the key.
        assert (await reached(hub, forward)).cause is Cause.REFUSED
        assert forward.asked == [hub.target]


async def test_a_proxy_that_is_away_or_none_is_told_from_a_hub_that_is(forward: Forward) -> None:
    async with open_hub() as hub:
        target = hub.target
        other = Forward(forward.scheme, "", "")
        (other.port,) = free_ports(1)
        lost = await reached(hub, other, "")
        assert lost.cause is Cause.PROXY_AWAY
        assert lost.retry_after_s == dealer.PROXY_LOOK_S
        other.port = target[1]  # the hub itself: no proxy
        lost = await reached(hub, other, "")
        assert lost.cause is Cause.PROXY_REFUSED
        # What comes first: the hub's greeting, or that it hangs up.
        said = ("does not answer as", "closed the connection", "reset", "roken pipe")
        assert any(one in str(lost) for one in said), lost
    lost = await reached(hub, forward)
    assert lost.cause is Cause.UNREACHABLE
    assert lost.retry_after_s == dealer.PROXY_LOOK_S
    assert ("503" if forward.scheme == "http" else "connection refused") in str(lost)


async def test_without_a_place_for_its_socket_a_link_ends_and_nothing_else(
    forward: Forward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    async with open_hub() as hub:
        lost = await reached(hub, forward)
    assert lost.cause is Cause.EXHAUSTED
    assert "No space left" in str(lost)
    assert lost.retry_after_s is not None


async def test_a_hub_that_comes_back_is_found_by_looking(
    forward: Forward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is one attempt of the proxy's, no oftener than PROXY_LOOK_S says."""
    monkeypatch.setattr(dealer, "PROXY_LOOK_S", 0.05)
    (port,) = free_ports(1)
    keys, server = new_key_pair(), new_key_pair()
    async with open_connect(
        f"tcp://127.0.0.1:{port}", server_key=server.public, keys=keys, settings=QUICK,
        proxy=proxy.parse(forward.url(CREDENTIALS)),
    ) as connect:  # fmt: skip
        link = await connect(look_s=0.01)
        await eventually(lambda: len(forward.asked) >= 3)
        assert not forward.lives
        async with open_hub(bind=f"tcp://127.0.0.1:{port}", keys=server) as hub:
            hub.edges.add(keys.public, "barn")
            await link.wait_up()
            assert (await hub.hears(link)).edge == "barn"


async def test_a_proxy_without_an_answer_is_given_up(forward: Forward) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    silent = proxy.Proxy(
        scheme=forward.scheme, host="127.0.0.1", port=listeners[0].socket.getsockname()[1]
    )
    with pytest.raises(ProxyError, match=r"no answer in 0\.05 s") as given_up:
        await proxy.connect(silent, "hub", 1, timeout_s=0.05)
    assert given_up.value.fault is ProxyFault.HUB_AWAY
    await listeners[0].aclose()


@pytest.mark.parametrize("said", [
    b"HTTP/1.1 2", b"HTTP/1.1 20x OK\r\n\r\n", b"\x05", b"\x05\x00", b"\x04\x00", b"x" * 40_000,
    b"HTTP/1.1 200 " + b"x" * 40_000,
])  # fmt: skip
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_whatever_a_proxy_says_ends(scheme: str, said: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(100)
            await stream.send_all(said)
            await stream.send_eof()
            await stream.receive_some(100)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        asked = proxy.Proxy(scheme=scheme, host="127.0.0.1", port=port)
        with pytest.raises(ProxyError) as ended:
            await proxy.connect(asked, "hub", 1, timeout_s=5.0)
        assert ended.value.fault is ProxyFault.REFUSED
        nursery.cancel_scope.cancel()


async def answered_by(said: bytes, *, timeout_s: float = 60.0) -> ProxyError:
    """Return what comes of a proxy that says something over and over."""

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(said)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        asked = proxy.Proxy(
            scheme="http", host="127.0.0.1", port=port, user="ana", password="s3 et"
        )
        with pytest.raises(ProxyError) as ended:
            await proxy.connect(asked, "hub", 1, timeout_s=timeout_s)
        nursery.cancel_scope.cancel()
    return ended.value


async def test_a_proxy_that_goes_on_and_on_is_given_up() -> None:
    ended = await answered_by(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    assert "goes on without an end" in str(ended)


async def test_a_proxy_that_repeats_the_credentials_does_not_tell_them() -> None:
    pair = base64.b64encode(b"ana:s3 et").decode()
    for told in ("ana:s3 et", "ana:s3%20et", f"Basic {pair}"):
        ended = await answered_by(f"HTTP/1.1 407 not {told}\r\n\r\n".encode())
        assert "407 not" in str(ended)
        assert "***" in str(ended)
        assert told.rpartition(":")[2].removeprefix("Basic ") not in str(ended)
