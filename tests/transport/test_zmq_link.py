"""Edge and hub over a real socket: what a link does when nobody means harm."""

import msgspec
import pytest
import trio
import trio.testing

from edgesync.demo.site import free_ports
from edgesync_transport.dealer import (
    LOOK_S,
    Cause,
    LinkLost,
    Phase,
    look_time_s,
    open_connect,
    split_address,
)
from edgesync_transport.keys import new_key_pair
from edgesync_transport.link import LinkClosed, Peer
from edgesync_transport.messages import Bye, Ping, Pong
from edgesync_transport.pump import PumpLimits
from edgesync_transport.router import open_hearing
from edgesync_transport.zap import KeyTable
from tests.transport.hub import QUICK, Hub, collect, end_of, eventually, open_hub, run_hub
from tests.transport.samples import BATCH, HELLO, PONG, SAMPLES, WELCOME

pytestmark = pytest.mark.feature("K3")


async def test_a_greeting_and_its_answer() -> None:
    async with open_hub() as hub, hub.connect(hub.admit("plant-7")) as connect:
        link = await connect()
        await link.send(HELLO)
        peer, hello = await hub.hearing.receive()
        assert (peer.edge, hello) == ("plant-7", HELLO)
        await hub.hearing.send(peer, WELCOME)
        assert await link.receive() == WELCOME
        await eventually(lambda: link.phase is Phase.UP)


async def test_every_message_passes_both_ways() -> None:
    async with open_hub() as hub, hub.connect(hub.admit("plant-7")) as connect:
        link = await connect()
        for sample in SAMPLES.values():
            await link.send(sample)
            peer, heard = await hub.hearing.receive()
            assert heard == sample
            await hub.hearing.send(peer, sample)
            assert await link.receive() == sample


@pytest.mark.slow
async def test_ten_thousand_messages_both_ways_at_once() -> None:
    """Two floods that meet on the same two sockets: where an edge-triggered descriptor stalls."""
    count = 10_000
    # `send` of the hub never waits for one edge; with room for all of it nothing is dropped.
    wide = PumpLimits(outbox_messages=2 * count)
    roomy = msgspec.structs.replace(QUICK, send_queue=2 * count, pump=wide)
    async with open_hub(roomy) as hub, hub.connect(hub.admit("plant-7")) as connect:
        link = await connect()
        peer = await hub.hears(link)

        async def up() -> None:
            for token in range(count):
                await link.send(Ping(epoch=1, token=token, at_ns=0))

        async def down() -> None:
            for token in range(count):
                await hub.hearing.send(peer, Pong(epoch=1, token=token, asked_at_ns=0, at_ns=0))

        heard, answered = [], []

        async def hear() -> None:
            for _ in range(count):
                _, message = await hub.hearing.receive()
                assert isinstance(message, Ping)
                heard.append(message.token)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(up)
            nursery.start_soon(down)
            nursery.start_soon(hear)
            for message in await collect(link, count):
                assert isinstance(message, Pong)
                answered.append(message.token)
        assert heard == list(range(count))
        assert answered == list(range(count))


async def test_many_edges_are_told_apart_by_their_keys() -> None:
    async with open_hub() as hub:
        peers: dict[str, Peer] = {}
        async with trio.open_nursery() as nursery:

            async def run_edge(name: str) -> None:
                async with hub.connect(hub.admit(name)) as connect:
                    link = await connect()
                    await link.send(Bye(epoch=1, reason=name))
                    answer = await link.receive()
                    assert answer == Bye(epoch=2, reason=name)

            for number in range(20):
                nursery.start_soon(run_edge, f"edge-{number}")
            for _ in range(20):
                peer, message = await hub.hearing.receive()
                assert message == Bye(epoch=1, reason=peer.edge)
                peers[peer.edge] = peer
                await hub.hearing.send(peer, Bye(epoch=2, reason=peer.edge))
        assert len(peers) == 20
        assert len({peer.route for peer in peers.values()}) == 20


async def test_each_attempt_is_a_connection_of_its_own() -> None:
    async with open_hub() as hub, hub.connect(hub.admit("plant-7")) as connect:
        first = await connect()
        one = await hub.hears(first)
        await first.aclose()
        second = await connect()
        two = await hub.hears(second)
        assert one.edge == two.edge
        assert one.route != two.route


async def test_a_bye_leaves_before_the_link_closes() -> None:
    async with open_hub() as hub, hub.edge("plant-7") as link:
        await link.send(Bye(epoch=1, reason="stopping"))
        await link.aclose()
        _, message = await hub.hearing.receive()
        assert message == Bye(epoch=1, reason="stopping")


async def test_a_closed_link_says_so_to_every_caller() -> None:
    async with open_hub() as hub, hub.edge("plant-7") as link:
        ended: list[LinkLost] = []

        async def wait_for_the_end() -> None:
            ended.append(await end_of(link))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_the_end)
            await trio.testing.wait_all_tasks_blocked()
            await link.aclose()
        assert ended[0].cause is Cause.CLOSED
        with pytest.raises(LinkClosed, match="closed on this side"):
            await link.send(HELLO)
        with pytest.raises(LinkClosed, match="closed on this side"):
            await link.receive()
        await link.aclose()


async def test_a_hub_that_stops_is_noticed_at_once() -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        hub: Hub = await nursery.start(run_hub, stop)
        async with hub.edge("plant-7") as link:
            stop.set()
            assert (await end_of(link)).cause is Cause.LOST


async def test_what_the_hub_sent_last_is_read_before_the_end() -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        hub: Hub = await nursery.start(run_hub, stop)
        async with hub.connect(hub.admit("plant-7")) as connect:
            link = await connect()
            peer = await hub.hears(link)
            await hub.hearing.send(peer, Bye(epoch=1, reason="upgrading"))
            stop.set()
            assert await link.receive() == Bye(epoch=1, reason="upgrading")
            assert (await end_of(link)).cause is Cause.LOST


@pytest.mark.slow
async def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    count = 2_000
    async with open_hub() as hub, hub.edge("plant-7") as link:

        async def up() -> None:
            for token in range(count):
                await link.send(Ping(epoch=1, token=token, at_ns=0))
                await trio.lowlevel.checkpoint()

        tokens: list[int] = []
        cancelled = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(up)
            while len(tokens) < count:
                with trio.move_on_after(0.0002) as scope:
                    while len(tokens) < count:
                        _, message = await hub.hearing.receive()
                        assert isinstance(message, Ping)
                        tokens.append(message.token)
                cancelled += scope.cancelled_caught
        assert tokens == list(range(count))
        assert cancelled > 0


async def test_a_send_that_is_cancelled_has_queued_nothing() -> None:
    narrow = msgspec.structs.replace(QUICK, pump=PumpLimits(outbox_messages=2))
    async with open_hub() as hub:
        address = f"tcp://127.0.0.1:{hub.target[1]}"
        async with hub.connect(hub.admit("plant-7"), address=address, settings=narrow) as connect:
            link = await connect()
            # Nothing has run in between: the outbox is all there is.
            await link.send(Ping(epoch=1, token=1, at_ns=0))
            await link.send(Ping(epoch=1, token=2, at_ns=0))
            with trio.CancelScope() as scope:
                scope.cancel()
                await link.send(Ping(epoch=1, token=3, at_ns=0))
            await link.send(Ping(epoch=1, token=4, at_ns=0))
            tokens = []
            for _ in range(3):
                _, message = await hub.hearing.receive()
                assert isinstance(message, Ping)
                tokens.append(message.token)
            assert tokens == [1, 2, 4]


async def test_a_hub_that_does_not_read_holds_the_edge_back() -> None:
    """Every queue on the way is bounded, and nothing is lost in them."""
    pump = PumpLimits(inbox_messages=8, outbox_messages=8)
    narrow = msgspec.structs.replace(QUICK, pump=pump, receive_queue=4, send_queue=4)
    large = msgspec.structs.replace(BATCH, payload=bytes(512 * 1024))
    count = 64
    async with open_hub(narrow) as hub:
        async with hub.connect(hub.admit("plant-7"), settings=narrow) as connect:
            link = await connect()
            sent = 0

            async def up() -> None:
                nonlocal sent
                for _ in range(count):
                    await link.send(large)
                    sent += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(up)
                await eventually(lambda: link._pump._outbox.is_half_empty() is False)
                await trio.sleep(0.3)
                held = sent
                for _ in range(count):
                    assert (await hub.hearing.receive())[1] == large
        assert held < count, "16 in queues, 8 in ZeroMQ's, some MiB in TCP's buffers"
        assert sent == count


async def test_an_edge_that_does_not_read_costs_the_hub_only_its_own_answers() -> None:
    narrow = msgspec.structs.replace(QUICK, send_queue=4)
    large = msgspec.structs.replace(BATCH, payload=bytes(512 * 1024))
    async with open_hub(narrow) as hub, hub.edge("reader") as reader:
        stuck_limits = PumpLimits(inbox_messages=1)
        stuck = msgspec.structs.replace(QUICK, pump=stuck_limits, receive_queue=1)
        async with hub.connect(hub.admit("stuck"), settings=stuck) as connect:
            stuck_peer = await hub.hears(await connect())
            reader_peer = await hub.hears(reader)
            while not hub.hearing.unroutable:
                await hub.hearing.send(stuck_peer, large)
                await hub.hearing.send(reader_peer, PONG)
                assert await reader.receive() == PONG


async def test_an_address_nobody_listens_at() -> None:
    async with open_hub() as hub:
        keys = hub.admit("plant-7")
        target = hub.target
        closed = f"tcp://127.0.0.1:{target[1]}"
    async with open_connect(
        closed, server_key=hub.keys.public, keys=keys, settings=QUICK
    ) as connect:
        lost = await end_of(await connect())
        assert lost.cause is Cause.UNREACHABLE
        assert str(lost) == f"{closed}: nothing answers at the hub's address"
        assert (await end_of(await connect())).cause is Cause.UNREACHABLE


async def test_a_name_that_does_not_resolve() -> None:
    async with open_connect(
        "tcp://hub.invalid:7070",
        server_key=new_key_pair().public,
        keys=new_key_pair(),
        settings=QUICK,
    ) as connect:
        assert (await end_of(await connect())).cause is Cause.UNRESOLVED


async def test_of_several_addresses_the_one_that_answers_is_kept() -> None:
    """`localhost` may be ::1 first, where this hub does not listen."""
    async with open_hub() as hub:
        address = f"tcp://localhost:{hub.target[1]}"
        async with hub.connect(hub.admit("plant-7"), address=address) as connect:
            for look_s in (None, 0.05):
                link = await connect(look_s)
                await link.wait_up()
                assert (await hub.hears(link)).edge == "plant-7"


async def test_none_of_several_addresses_answers() -> None:
    (port,) = free_ports(1)
    async with open_connect(
        f"tcp://localhost:{port}", server_key=new_key_pair().public, keys=new_key_pair()
    ) as connect:
        lost = await end_of(await connect())
        assert (lost.cause, lost.retry_after_s) == (Cause.UNREACHABLE, 0.0)


async def test_a_hub_is_looked_for_until_it_is_there() -> None:
    (port,) = free_ports(1)
    server, edge = new_key_pair(), new_key_pair()
    address = f"tcp://127.0.0.1:{port}"
    async with open_connect(address, server_key=server.public, keys=edge) as connect:
        link = await connect(0.02)
        assert (await end_of(await connect())).cause is Cause.UNREACHABLE
        assert link.phase is Phase.CONNECTING
        await link.send(HELLO)  # queued: it goes to whoever answers
        table = KeyTable({edge.public: "plant-7"})
        async with open_hearing([address], server_keys=server, edges=table) as hearing:
            await link.wait_up()
            assert (await hearing.receive())[1] == HELLO


@pytest.mark.parametrize("look_s", [0.05, 2.0, 30.0])
def test_a_hub_that_is_looked_for_seldom_is_looked_for_more_than_once(look_s: float) -> None:
    """A link tries at its beginning: fleets whose links ended at once would try as one."""
    assert look_time_s(look_s) >= LOOK_S
    assert look_time_s(look_s) > 2 * (2 * look_s)


async def test_a_link_that_looks_for_its_hub_can_be_closed() -> None:
    (port,) = free_ports(1)
    async with open_connect(
        f"tcp://127.0.0.1:{port}", server_key=new_key_pair().public, keys=new_key_pair()
    ) as connect:
        link = await connect(0.02)
        await link.aclose()
        with pytest.raises(LinkClosed, match="closed on this side"):
            await link.wait_up()


async def test_ipv6() -> None:
    async with open_hub(bind="tcp://[::1]:*") as hub, hub.edge("plant-7") as link:
        assert "[::1]" in link.address


async def test_an_address_in_use_is_an_error_that_names_it() -> None:
    async with open_hub() as hub:
        with pytest.raises(OSError, match=f"cannot listen on {hub.address}"):
            async with open_hub(bind=hub.address):
                pass


@pytest.mark.parametrize(
    "address", ["", "hub:1", "tcp://hub", "tcp://:1", "udp://hub:1", "tcp://h:0", "tcp://h:65536"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="it would be tcp://host:port"):
        split_address(address)


def test_what_is_an_address() -> None:
    assert split_address("tcp://hub.example:7070") == ("hub.example", 7070)
    assert split_address("tcp://[fe80::1]:7070") == ("fe80::1", 7070)
