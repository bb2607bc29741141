"""Who holds a token is let in to redeem it, and for nothing else."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from edgesync_transport.dealer import Cause, LinkLost, ZmqLink, ask_as_guest
from edgesync_transport.keys import guest_keys, new_key_pair, new_secret
from edgesync_transport.link import LinkClosed
from edgesync_transport.messages import Message, Ping
from edgesync_transport.router import GUEST_BYTES_MAX, open_hearing
from edgesync_transport.zap import KeyTable
from tests.transport.hub import QUICK, Hub, end_of, eventually

pytestmark = pytest.mark.feature("S6")

SECRET = new_secret()
BAD = b"bad"
PING = Ping(epoch=0, token=1, at_ns=0)


class Heard(Hub):
    """A hub that notes which edge sent what."""

    messages: list[tuple[str, Message]]

    async def listen(self) -> None:
        self.messages = []
        with contextlib.suppress(LinkClosed):
            while True:
                peer, message = await self.hearing.receive()
                self.messages.append((peer.edge, message))


@asynccontextmanager
async def open_hub() -> AsyncIterator[Heard]:
    """A hub that answers a guest with its enrolment and its question."""

    async def welcome(enrolment: str, question: bytes) -> bytes:
        if question == BAD:
            raise ValueError("a fault of ours")
        return enrolment.encode() + b" " + question

    keys, edges = new_key_pair(), KeyTable()
    edges.set_guests({guest_keys(SECRET).public: "e1"})
    async with open_hearing(
        ["tcp://127.0.0.1:*"], server_keys=keys, edges=edges, settings=QUICK, welcome=welcome
    ) as hearing:
        hub = Heard(hearing, keys, edges)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hub.listen)
            yield hub
            nursery.cancel_scope.cancel()


async def ask(hub: Heard, secret: str, question: bytes = b"?", timeout_s: float = 10) -> bytes:
    return await ask_as_guest(
        hub.address, server_key=hub.keys.public, secret=secret, question=question,
        timeout_s=timeout_s,
    )  # fmt: skip


def test_the_key_of_a_secret_is_the_same_everywhere() -> None:
    # A token outlives the version that made it.
    keys = guest_keys("an example")
    assert keys.public == "L?KhrI5i)BW8v>g:DQ+FDn8e}e#PI(.>^s%4ZN&s"
    assert guest_keys("another").public != keys.public


async def test_who_holds_a_token_is_answered() -> None:
    async with open_hub() as hub:
        assert await ask(hub, SECRET) == b"e1 ?"
        assert await ask(hub, SECRET, b"!") == b"e1 !"
        assert hub.hearing.stats.guests == 2


async def test_a_guest_who_cannot_be_answered_costs_the_others_nothing() -> None:
    """I8, and its question may be the one that shows a fault of ours."""
    async with open_hub() as hub:
        with pytest.raises(trio.TooSlowError):
            await ask(hub, SECRET, BAD, timeout_s=0.4)
        assert await ask(hub, SECRET) == b"e1 ?"


async def test_who_holds_none_is_refused_at_the_handshake() -> None:
    async with open_hub() as hub:
        with pytest.raises(LinkLost) as lost:
            await ask(hub, new_secret(), timeout_s=0.4)
        assert lost.value.cause is Cause.REFUSED
        assert hub.hearing.stats.guests == 0


@pytest.mark.slow
async def test_a_token_made_meanwhile_is_good_at_once() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        secret, found = new_secret(), list[bytes]()

        async def asking() -> None:
            found.append(await ask(hub, secret))

        nursery.start_soon(asking)
        await eventually(lambda: hub.hearing.zap.refused > 0)
        hub.edges.set_guests({guest_keys(secret).public: "e2"})
        await eventually(lambda: found == [b"e2 ?"])


async def test_a_guest_is_heard_as_no_edge_and_asks_no_more_than_that() -> None:
    async with open_hub() as hub, hub.connect(hub.admit("barn")) as connect:
        barn = await connect()
        async with hub.connect(guest_keys(SECRET)) as connect_guest:
            guest = await connect_guest()
            await guest.send(PING)
            for frames in (
                [b"edgesync-enrol1"],
                [b"edgesync-enrol1", b"?", b"more"],
                [b"edgesync-enrol1", b"?" * (GUEST_BYTES_MAX + 1)],
                [b"edgesync-enrol2", b"?"],
            ):
                await guest._pump.send(frames)
            assert await guest.ask_as_guest(b"last") == b"e1 last"
            assert (hub.hearing.stats.revoked, hub.hearing.stats.guests) == (5, 1)
            await barn.send(PING)
            await eventually(lambda: hub.messages == [("barn", PING)])
            await guest.aclose()
        await barn.aclose()


async def test_a_guest_whose_token_is_gone_is_heard_no_more() -> None:
    async with open_hub() as hub, hub.connect(guest_keys(SECRET)) as connect:
        guest: ZmqLink = await connect()
        assert await guest.ask_as_guest(b"?") == b"e1 ?"
        hub.edges.set_guests({})
        with trio.move_on_after(0.2) as waited:
            await guest.ask_as_guest(b"?")
        assert waited.cancelled_caught
        await guest.aclose()
        again = await connect()
        assert (await end_of(again)).cause is Cause.REFUSED
