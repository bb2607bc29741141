"""Tunnels through a real hub, a real edge and real sockets."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from edgesync import Reading
from edgesync.errors import StoreFull
from edgesync_transport import receiver
from edgesync_transport.messages import TunnelCode, TunnelData, TunnelOpen
from edgesync_transport.seldom import Seldom
from edgesync_transport.tunnel.pace import CREDIT_MAX
from edgesync_transport.tunnel.stream import WINDOW_BYTES
from hubd.tunnel.service import TunnelRefused, Tunnels, TunnelView
from tests.edgesync.sync.test_driver import until
from tests.edgesync.tunnel.tunnel_hub import (
    TunnelHub,
    echo,
    read_all,
    target,
    wanted,
)

if TYPE_CHECKING:
    from edgesync.tunnel.part import TunnelPart

pytestmark = [pytest.mark.feature("S33"), pytest.mark.slow]

LARGE = 5 << 20  # each way


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[TunnelHub]:
    made = TunnelHub(tmp_path)
    yield made
    for client in made.clients:
        await client.aclose()


async def ended(service: Tunnels, view: TunnelView) -> TunnelView:
    one = service.find(view.tunnel, lambda _edge: True)
    assert one is not None
    with trio.fail_after(60):
        await one.over.wait()
    return one.view()


@pytest.mark.setting("tunnel.allow")
async def test_bytes_go_both_ways_and_what_was_done_is_on_record_at_both_ends(
    hub: TunnelHub,
) -> None:
    async with (
        hub.serving() as service,
        target(echo) as port,
        hub.edge(f"127.0.0.1:{port}") as node,
    ):
        await hub.session(node)
        view = await service.open(wanted(port, for_s=60.0))
        assert (view.state, view.for_s, view.by) == ("open", 60.0, "ana")
        assert view.address.startswith("127.0.0.1:")
        first, second = await hub.dial(view.address), await hub.dial(view.address)
        for nth, client in enumerate((first, second)):
            await client.send_all(b"SSH-2.0-%d\n" % nth)
            assert await client.receive_some() == b"SSH-2.0-%d\n" % nth
        (shown,) = node.status().tunnels.open  # type: ignore[union-attr]
        assert (shown.target, shown.by, shown.connections) == (f"127.0.0.1:{port}", "ana", 2)
        await first.send_eof()  # half closed: the answer still comes
        assert await read_all(first) == b""
        await second.aclose()
        await until(lambda: service.some(lambda _edge: True)[0].connections == 0)
        one = service.find(view.tunnel, lambda _edge: True)
        assert one is not None
        service.close(one, "bob")
        over = await ended(service, view)
        assert (over.code, over.reason, over.opened) == ("closed", "closed by bob at the hub", 2)
        assert (over.sent_bytes, over.received_bytes) == (20, 20)
        with pytest.raises(OSError, match="failed"):  # nothing listens any more
            await hub.dial(view.address)
        asked, closed = hub.audit
        assert (asked["what"], asked["by"], asked["edge"]) == ("tunnels", "ana", "barn")
        assert (closed["what"], closed["by"]) == ("tunnels/close", "bob")
        assert '"sent_bytes":20' in closed["detail"]
        await until(lambda: not node.status().tunnels.open)  # type: ignore[union-attr]
        opened, gone = await hub.events(node, 2)
        assert (opened["what"], opened["tunnel"], opened["by"]) == (
            "tunnel_opened", view.tunnel, "ana",
        )  # fmt: skip
        assert (gone["what"], gone["code"], gone["connections"]) == ("tunnel_closed", "closed", 2)
        assert (gone["sent_bytes"], gone["received_bytes"]) == (20, 20)


async def test_a_flood_both_ways_has_a_bound_and_acks_go_on_beside_it(hub: TunnelHub) -> None:
    data = bytes(range(256)) * (LARGE // 256)
    most = acked = credit = 0

    async with (
        hub.serving() as service,
        target(echo) as port,
        hub.edge(f"127.0.0.1:{port}") as node,
    ):
        await hub.session(node)
        view = await service.open(wanted(port))
        part: TunnelPart = node.part("tunnel")
        (one,) = part._open.values()
        found = bytearray()
        client = await hub.dial(view.address)

        async def send() -> None:
            await client.send_all(data)
            await client.send_eof()

        async def receive() -> None:
            async for some in client:
                found.extend(some)

        async def measure(scope: trio.CancelScope) -> None:
            nonlocal most, acked, credit
            with scope:
                while True:
                    await node.ingest([Reading("m", "P", float(acked), acked + 1)])
                    await node.sync(60)
                    acked += 1
                    credit = max(credit, one.end.tunnel.pace._under_way)
                    for stream in one.end.tunnel.streams.values():
                        most = max(most, stream.sent - stream.there, len(stream.buffer))

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(measure, scope)
            async with trio.open_nursery() as both:
                both.start_soon(send)
                both.start_soon(receive)
            scope.cancel()
        assert bytes(found) == data
        assert 0 < most <= WINDOW_BYTES
        assert 0 < credit <= CREDIT_MAX
        assert acked >= 10  # each a commit, a batch and an ack beside the flood


async def test_a_target_that_does_not_read_holds_up_itself_alone(hub: TunnelHub) -> None:
    async def deaf(stream: trio.SocketStream) -> None:
        if (await stream.receive_some(1)) == b"e":
            await echo(stream)
        await trio.sleep_forever()

    async with (
        hub.serving() as service,
        target(deaf) as port,
        hub.edge(f"127.0.0.1:{port}") as node,
    ):
        await hub.session(node)
        view = await service.open(wanted(port))
        part: TunnelPart = node.part("tunnel")
        (one,) = part._open.values()
        async with trio.open_nursery() as nursery:
            stuck, other = await hub.dial(view.address), await hub.dial(view.address)
            await other.send_all(b"e")
            nursery.start_soon(stuck.send_all, bytes(64 << 20))
            await until(
                lambda: any(len(each.buffer) > 0 for each in one.end.tunnel.streams.values())
            )
            for _ in range(50):
                await other.send_all(b"ping")
                assert await other.receive_some() == b"ping"
            buffers = [len(each.buffer) for each in one.end.tunnel.streams.values()]
            assert sum(buffers) <= 2 * WINDOW_BYTES
            nursery.cancel_scope.cancel()


@pytest.mark.setting("tunnel.tunnels_max")
async def test_what_is_not_allowed_is_refused_and_on_record(hub: TunnelHub) -> None:
    async with (
        hub.serving() as service,
        target(echo) as port,
        hub.edge(f"127.0.0.1:{port}", "10.0.0.0/8:22", tunnels_max=1) as node,
    ):
        await hub.session(node)
        for asked in (wanted(port + 1), wanted(22), wanted(port, host="localhost")):
            with pytest.raises(TunnelRefused, match=r"refuses it: .* is not in `allow` under"):
                await service.open(asked)
        assert node.status().tunnels.refused == 3  # type: ignore[union-attr]
        await service.open(wanted(port))
        with pytest.raises(TunnelRefused, match="it has 1 tunnels, as many as may be"):
            await service.open(wanted(port))
        await until(lambda: len(hub.audit) == 9)
        assert [one["what"] for one in hub.audit].count("tunnels/close") == 4
        told = [one["what"] for one in await hub.events(node, 5)]
        assert (told.count("tunnel_refused"), told.count("tunnel_opened")) == (4, 1)


async def test_a_hub_that_asks_without_end_is_refused_and_seldom_on_record(
    hub: TunnelHub,
) -> None:
    """Refusals beyond a rate are counted in the next record, and so many tunnels are opened."""
    async with (
        hub.serving() as service,
        target(echo) as port,
        hub.edge(f"127.0.0.1:{port}") as node,
    ):
        await hub.session(node)
        part, now = node.part("tunnel"), 0.0
        part._seldom = Seldom(60.0, lambda: now, burst=3)
        part._openings = Seldom(10.0, lambda: now, burst=2)
        for _ in range(20):
            with pytest.raises(TunnelRefused, match="not in `allow`"):
                await service.open(wanted(port + 1))
        for _ in range(2):
            view = await service.open(wanted(port))
            found = service.find(view.tunnel, lambda _edge: True)
            assert found is not None
            service.close(found, "ana")
            await until(lambda: not part._open)
        with pytest.raises(TunnelRefused, match=r"more than .* try again later"):
            await service.open(wanted(port))
        now = 60.0
        with pytest.raises(TunnelRefused, match="not in `allow`"):
            await service.open(wanted(port + 1))
        await service.open(wanted(port))
        events = await hub.events(node, 9)
        assert [e["left_out"] for e in events if e["what"] == "tunnel_refused"] == [0, 0, 0, 18]
        assert [e["what"] for e in events].count("tunnel_opened") == 3
        assert part.refused == 22


async def test_a_tunnel_that_cannot_be_put_on_record_is_not_opened(
    hub: TunnelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise StoreFull(used_bytes=9, limit_bytes=9)

    async with (
        hub.serving() as service,
        target(echo) as port,
        hub.edge(f"127.0.0.1:{port}") as node,
    ):
        await hub.session(node)
        with monkeypatch.context() as patched:
            patched.setattr(node.store, "submit", refuse)
            with pytest.raises(TunnelRefused, match="cannot store that it is open"):
                await service.open(wanted(port))
        await service.open(wanted(port))


async def test_an_edge_that_allows_none_is_sent_nothing(hub: TunnelHub) -> None:
    async with hub.serving() as service:
        with pytest.raises(TunnelRefused, match="barn is not connected"):
            await service.open(wanted(22))
        async with hub.edge() as node:
            await hub.session(node)
            with pytest.raises(TunnelRefused, match="barn takes no tunnels: `allow` under") as told:
                await service.open(wanted(22))
            assert told.value.field == "edge"
        for listen in ("0.0.0.0", "192.0.2.1", "here"):
            async with hub.edge("127.0.0.1:22") as node:
                await hub.session(node)
                with pytest.raises(TunnelRefused, match="is no loopback address"):
                    await service.open(wanted(22, listen=listen))
        assert hub.audit == []


async def test_a_target_that_cannot_be_reached_ends_its_connection_alone(hub: TunnelHub) -> None:
    async with hub.serving() as service, hub.edge("127.0.0.1:1") as node:
        await hub.session(node)
        view = await service.open(wanted(1))
        for _ in range(10):  # more than may be at a time
            assert await read_all(await hub.dial(view.address)) == b""
        (shown,) = service.some(lambda _edge: True)
        assert (shown.state, shown.opened) == ("open", 10)


async def test_a_host_that_no_socket_takes_ends_nothing_else(hub: TunnelHub) -> None:
    async with (
        hub.serving() as service,
        target(echo) as port,
        hub.edge(f"127.0.0.1:{port}", f"a..b:{port}") as node,
    ):
        await hub.session(node)
        with pytest.raises(TunnelRefused, match="is not in `allow`"):
            await service.open(wanted(port, host="::ffff:127.0.0.1%\u00e9"))
        named = await service.open(wanted(port, host="a..b"))
        assert await read_all(await hub.dial(named.address)) == b""
        client = await hub.dial((await service.open(wanted(port))).address)
        await client.send_all(b"the edge goes on")
        assert await client.receive_some() == b"the edge goes on"


async def test_a_hub_that_does_not_wait_for_the_record_is_connected_to_nothing(
    hub: TunnelHub,
) -> None:
    async with hub.serving(), target(echo) as port, hub.edge(f"127.0.0.1:{port}") as node:
        await hub.session(node)
        part: TunnelPart = node.part("tunnel")
        epoch = node.part("link").driver.epoch
        part.hear(TunnelOpen(epoch=epoch, tunnel=9, host="127.0.0.1", port=port, for_s=60.0))
        part.hear(TunnelData(epoch=epoch, tunnel=9, stream=1, offset=0, taken=0, payload=b"now"))
        (one,) = part._open.values()
        await until(lambda: not part._open)
        assert one.end.tunnel.opened == 0
        assert one.end.ended is not None
        assert one.end.ended.code is TunnelCode.NOT_ALLOWED


@pytest.mark.setting("tunnel.connections_max")
async def test_more_connections_than_may_be_wait_until_one_has_gone(hub: TunnelHub) -> None:
    async with (
        hub.serving() as service,
        target(echo) as port,
        hub.edge(f"127.0.0.1:{port}", connections_max=1) as node,
    ):
        await hub.session(node)
        view = await service.open(wanted(port))
        first, second = await hub.dial(view.address), await hub.dial(view.address)
        await second.send_all(b"second")
        await first.send_all(b"first")
        assert await first.receive_some() == b"first"
        assert service.some(lambda _edge: True)[0].opened == 1
        await first.aclose()
        assert await second.receive_some() == b"second"


@pytest.mark.setting("tunnel.longest", "tunnel.idle")
async def test_the_edge_closes_it_by_hand_by_time_and_when_nothing_moves(hub: TunnelHub) -> None:
    async with hub.serving() as service, target(echo) as port:
        where = f"127.0.0.1:{port}"
        async with hub.edge(where, longest="300ms") as node:
            await hub.session(node)
            short = await service.open(wanted(port))
            assert short.for_s == 0.3  # granted less than asked for
            client = await hub.dial(short.address)
            assert await read_all(client) == b""
            assert (await ended(service, short)).code == "expired"
        async with hub.edge(where, idle="200ms") as node:
            await hub.session(node)
            idle = await service.open(wanted(port))
            assert (await ended(service, idle)).code == "idle"
            closed = await service.open(wanted(port))
            part: TunnelPart = node.part("tunnel")
            assert part.close_tunnel(closed.tunnel) == 1
            over = await ended(service, closed)
            assert (over.code, over.reason) == ("closed", "closed at the edge")
            stopped = await service.open(wanted(port))
        over = await ended(service, stopped)
        assert over.code in ("closed", "lost")
        codes = [e["code"] for e in await told(hub, where) if e["what"] == "tunnel_closed"]
        assert codes == ["expired", "idle", "closed", "closed"]


async def told(hub: TunnelHub, where: str) -> list[dict[str, str]]:
    async with hub.edge(where) as node:
        return await hub.events(node, 8)


async def test_a_tunnel_ends_with_its_session_at_both_ends(hub: TunnelHub) -> None:
    async with target(echo) as port, hub.edge(f"127.0.0.1:{port}") as node:

        async def half_way(service: Tunnels) -> tuple[TunnelView, trio.SocketStream]:
            await hub.session(node)
            view = await service.open(wanted(port))
            client = await hub.dial(view.address)
            await client.send_all(b"half a fi")
            assert await client.receive_some() == b"half a fi"
            return view, client

        async with hub.serving() as service:
            view, client = await half_way(service)
            await hub.link._step_edge("barn", receiver.Regreet("greet anew"))
            assert (await ended(service, view)).reason == "the session of the edge is over"
            assert await read_all(client) == b""
            await until(lambda: not node.status().tunnels.open)  # type: ignore[union-attr]
            view, client = await half_way(service)  # a new one, of the new session
        # The hub is gone.
        assert await read_all(client) == b""
        await until(lambda: not node.status().tunnels.open)  # type: ignore[union-attr]
        async with hub.serving() as service:
            await hub.session(node)
            assert service.some(lambda _edge: True) == []
            closed = [e for e in await hub.events(node, 4) if e["what"] == "tunnel_closed"]
            assert [(e["code"], e["received_bytes"]) for e in closed] == [("lost", 9), ("lost", 9)]
            assert "session" in closed[0]["reason"]
