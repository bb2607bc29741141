"""A link across a bad network: slow, cut, cut in the middle of a frame, silent without an end."""

import math
import subprocess
import sys

import msgspec
import pytest
import trio

from edgesync_transport.dealer import HUNG_S, Cause, LinkLost, ZmqLink
from edgesync_transport.messages import Ping
from tests.faults.proxy import open_proxy
from tests.transport.hub import MUTE, collect, end_of, eventually, open_hub
from tests.transport.samples import BATCH, WELCOME

pytestmark = pytest.mark.feature("K3")


async def test_a_slow_and_narrow_line_only_takes_longer() -> None:
    payload = bytes(range(256)) * 128
    batch = msgspec.structs.replace(BATCH, payload=payload)
    async with open_hub() as hub, open_proxy(hub.target) as proxy:
        proxy.latency_s, proxy.bytes_per_s = 0.05, 400_000
        async with hub.connect(hub.admit("far"), address=proxy.endpoint) as connect:
            link = await connect()
            for _ in range(4):
                await link.send(batch)
            for _ in range(4):
                peer, message = await hub.hearing.receive()
                assert message == batch
                await hub.hearing.send(peer, WELCOME)
            assert await collect(link, 4) == [WELCOME] * 4
        assert proxy.relayed_bytes > 4 * len(payload)


async def test_a_cut_is_noticed_and_the_next_attempt_gets_through() -> None:
    async with (
        open_hub() as hub,
        open_proxy(hub.target) as proxy,
        hub.connect(hub.admit("far"), address=proxy.endpoint) as connect,
    ):
        for attempt in range(5):
            link = await connect()
            await hub.hears(link, attempt)
            proxy.cut()
            assert (await end_of(link)).cause is Cause.LOST
        assert proxy.accepted == 5


async def test_a_cut_in_the_middle_of_a_frame_delivers_nothing_of_it() -> None:
    batch = msgspec.structs.replace(BATCH, payload=bytes(200_000))
    async with open_hub() as hub, open_proxy(hub.target) as proxy:
        async with hub.connect(hub.admit("far"), address=proxy.endpoint) as connect:
            for cut_after_bytes in (1, 100, 50_000, 199_999):
                link = await connect()
                await hub.hears(link)
                proxy.cut_after_bytes = cut_after_bytes
                await link.send(batch)
                assert (await end_of(link)).cause is Cause.LOST
            await hub.hears(await connect())
        assert hub.hearing.stats.received == 5, "the pings, and nothing of any batch"
        assert not hub.hearing.stats.edges


async def test_a_handshake_that_is_cut_anywhere_fails_with_a_cause() -> None:
    """The greeting and the handshake together are about 600 bytes in both directions."""
    async with (
        open_hub() as hub,
        open_proxy(hub.target) as proxy,
        hub.connect(hub.admit("far"), address=proxy.endpoint) as connect,
    ):
        for cut_after_bytes in range(1, 500, 31):
            proxy.cut_after_bytes = cut_after_bytes
            link = await connect()
            assert (await end_of(link)).cause in (Cause.UNPROVEN, Cause.LOST)
        proxy.cut_after_bytes = None
        assert (await hub.hears(await connect())).edge == "far"


async def test_nobody_behind_the_line() -> None:
    async with (
        open_hub() as hub,
        open_proxy(hub.target) as proxy,
        hub.connect(hub.admit("far"), address=proxy.endpoint) as connect,
    ):
        proxy.is_refusing = True
        lost = await end_of(await connect())
        assert lost.cause in (Cause.UNREACHABLE, Cause.UNPROVEN)
        proxy.is_refusing = False
        assert (await hub.hears(await connect())).edge == "far"


async def test_who_stands_before_a_hub_that_is_away_is_not_taken_for_another() -> None:
    """Who forwards connections to a hub that is away accepts them and closes them."""
    async with (
        open_hub() as hub,
        open_proxy(hub.target) as proxy,
        hub.connect(hub.admit("far"), address=proxy.endpoint) as connect,
    ):
        proxy.cut_after_bytes = 1
        lost = await end_of(await connect(0.02))
        assert (lost.cause, lost.retry_after_s) == (Cause.UNPROVEN, None)
        link = await connect()
        await hub.hears(link)
        await link.aclose()
        proxy.cut_after_bytes = 1
        lost = await end_of(await connect())
        assert (lost.cause, lost.retry_after_s) == (Cause.ABSENT, 0.0)
        proxy.is_refusing = True
        link = await connect(0.02)
        await eventually(lambda: proxy.refused >= 3)
        proxy.is_refusing = False
        await link.wait_up()
        assert (await hub.hears(link)).edge == "far"


@pytest.mark.networks
def test_a_half_open_connection_is_found_by_both_ends() -> None:
    """Nothing ends, nothing arrives: without the kernel's questions neither would ever know."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-m", "tests.transport.cable"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_line_that_answers_nothing_is_no_hub() -> None:
    async with (
        open_hub() as hub,
        open_proxy(hub.target) as proxy,
        hub.connect(hub.admit("far"), address=proxy.endpoint, settings=MUTE) as connect,
    ):
        proxy.open_hole()
        lost = await end_of(await connect())
        assert (lost.cause, lost.retry_after_s) == (Cause.SILENT, None)


async def test_a_hub_that_hangs_is_not_one_that_refuses() -> None:
    """Five that refuse in a row are left alone for minutes; a stopped one may go on in a moment."""
    async with (
        open_hub() as hub,
        open_proxy(hub.target) as proxy,
        hub.connect(hub.admit("far"), address=proxy.endpoint, settings=MUTE) as connect,
    ):
        past, handshake_s = connect._past, MUTE.handshake_s
        past.is_proven = True
        proxy.open_hole()
        for n in (1, 2, 3):
            lost = await end_of(await connect())
            assert lost.cause is Cause.SILENT
            assert lost.retry_after_s is not None
            assert handshake_s * 2**n / 2 <= lost.retry_after_s <= handshake_s * 2**n
        past.silences = 1000
        assert (past.hung_s(handshake_s) or math.inf) <= HUNG_S


async def test_an_idle_link_stays_up() -> None:
    """The kernel asks after a second, and would have given up after two."""
    async with open_hub() as hub, hub.edge("far") as link:
        with trio.move_on_after(3.0):
            await end_of(link)
            pytest.fail("the link ended although the peer was there")
        assert (await hub.hears(link)).edge == "far"


async def test_a_line_that_flaps_makes_progress_on_every_connection() -> None:
    """What arrived is a prefix of what was sent on each connection, in order, undoubled."""
    arrived: list[list[int]] = []
    async with (
        open_hub() as hub,
        open_proxy(hub.target) as proxy,
        hub.connect(hub.admit("far"), address=proxy.endpoint) as connect,
    ):
        for attempt in range(10):
            link = await connect()
            arrived.append([])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_until_lost, link, attempt)
                while len(arrived[attempt]) < 200:
                    _, message = await hub.hearing.receive()
                    assert isinstance(message, Ping)
                    # Some of the connection before may still have been on their way here.
                    arrived[message.epoch].append(message.token)
                proxy.cut()
    for tokens in arrived:
        assert tokens == list(range(len(tokens)))


async def send_until_lost(link: ZmqLink, attempt: int) -> None:
    with pytest.raises(LinkLost, match="the connection was lost"):
        await send_pings(link, attempt)


async def send_pings(link: ZmqLink, attempt: int) -> None:
    for token in range(1_000_000):
        await link.send(Ping(epoch=attempt, token=token, at_ns=0))
