"""The hub's end of the link: what it stores, what it refuses, and how much may wait."""

import logging
import struct
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgesync.model import RecordKind
from edgesync_transport.link import Peer
from edgesync_transport.memory import open_memory_hub
from edgesync_transport.messages import (
    Ack,
    Bye,
    Codec,
    Hello,
    LaneOffer,
    Limits,
    Message,
    Nack,
    NackCode,
    Ping,
    Pong,
    Welcome,
)
from edgesync_transport.receiver import ReceiverSettings
from hubd.link import sessions
from hubd.link.sessions import SESSION_S, HubLink
from hubd.log.base import ENTRY_BYTES_MAX, Session
from hubd.log.memory import MemoryLog
from hubd.presence import Presence
from tests.hubd.links import HandEdge, open_site
from tests.hubd.log.test_contract import Lanes, drafts, numbers_in
from tests.native.rowsmith import Draft

pytestmark = pytest.mark.feature("S4", "S6")


def heavy(first: int, last: int) -> list[Draft]:
    """Records of 60 KB that nothing makes smaller."""
    return [
        Draft(RecordKind.EVENT, Random(seq).randbytes(60_000), 7, seq)
        for seq in range(first, last + 1)
    ]


async def test_records_that_lead_to_another_hash_are_not_stored(tmp_path: Path) -> None:
    """The last defence against a batch that was put together wrongly."""
    async with open_site(tmp_path) as site:
        edge, lane = site.edge(), Lanes(drafts(1, 9))
        await edge.greet(tail=9)
        await edge.send(lane, 1, 5, last_chain=lane.chain(5) ^ 1)
        refusal = await edge.answer()
        assert isinstance(refusal, Nack)
        assert (refusal.code, refusal.floor) == (NackCode.CHAIN, 0)
        assert site.log.head == 0
        await edge.send(lane, 1, 5)
        assert isinstance(await edge.answer(), Ack)
        assert await numbers_in(site.log) == [(n, n) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"last": 6}, NackCode.POISON),
        ({"payload": b""}, NackCode.POISON),
        ({"payload": b"\0\0\0"}, NackCode.POISON),
        ({"payload": struct.pack("<I", ENTRY_BYTES_MAX + 1) + b"\1\0\0\0"}, NackCode.TOO_LARGE),
        ({"payload": b"\xff" * 9000}, NackCode.TOO_LARGE),
    ],
)
async def test_a_payload_that_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, object], code: NackCode
) -> None:
    async with open_site(tmp_path) as site:
        edge, lane = site.edge(), Lanes(drafts(1, 9))
        await edge.greet(tail=9)
        await edge.send(lane, 1, 5, **changes)
        refusal = await edge.answer()
        assert isinstance(refusal, Nack)
        assert refusal.code is code
        assert site.log.head == 0


async def test_bodies_that_unpack_to_more_than_an_entry_may_are_refused(tmp_path: Path) -> None:
    """Each body is 4 MiB of nothing in 16 KB: no batch of them is unpacked whole."""
    from edgesync._native import pack

    body = pack.pack(b"\0" * (4 << 20))
    async with open_site(tmp_path) as site:
        edge = site.edge()
        lane = Lanes([Draft(RecordKind.EVENT, body, 7, n, flags=1) for n in range(1, 9)])
        await edge.greet(tail=8)
        await edge.send(lane, 1, 8)
        refusal = await edge.answer()
        assert isinstance(refusal, Nack)
        assert refusal.code is NackCode.TOO_LARGE
        await edge.send(lane, 1, 2)
        assert isinstance(await edge.answer(), Ack)


@pytest.mark.slow
async def test_room_in_the_queue_comes_back(tmp_path: Path) -> None:
    """Three times what may wait goes through one session, bit by bit."""
    limits = Limits(window_bytes=256 * 1024)
    async with open_site(tmp_path, limits=limits) as site:
        edge, lane = site.edge(), Lanes(heavy(1, 30))
        await edge.greet(tail=30)
        for seq in range(1, 31):
            await edge.send(lane, seq, seq)
            answer = await edge.answer()
            assert isinstance(answer, Ack), answer
        assert (await site.log.read(0, limit_bytes=1 << 30))[-1].last == 30


@pytest.mark.slow
async def test_more_than_may_wait_is_refused_for_now(tmp_path: Path) -> None:
    """The queue outlives sessions: who greets again and again does not fill it without end."""
    limits = Limits(window_bytes=256 * 1024, window_batches=64)
    async with open_site(tmp_path, limits=limits) as site:
        edge, lane = site.edge(), Lanes(heavy(1, 40))
        await edge.greet(tail=40)
        await site.log._turn.acquire()  # the disk is slow
        try:
            for seq in range(1, 13):
                await edge.send(lane, seq, seq)
            refusal = await edge.answer()
            assert isinstance(refusal, Nack)
            assert refusal.code is NackCode.BUSY
            assert "waits for the disk" in refusal.reason or "window" in refusal.reason
        finally:
            site.log._turn.release()


async def test_an_edge_that_sends_nothing_has_no_task(tmp_path: Path) -> None:
    """In a fleet most are idle at any moment: what each holds then is what the hub holds."""
    async with open_site(tmp_path) as site:
        await wait_all_tasks_blocked()
        nursery = site.link._nursery
        assert nursery is not None
        tasks = len(nursery.child_tasks)
        edges, lane = [site.edge(name) for name in ("barn", "shed")], Lanes(drafts(1, 9))
        for edge in edges:
            await edge.greet(tail=9)
            await edge.send(lane, 1, 4)
            assert isinstance(await edge.answer(), Ack)
            await edge.send(lane, 5, 9)
            assert isinstance(await edge.answer(), Ack)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == tasks


async def test_windows_are_smaller_where_edges_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them together stay within bounds, also when they come back with a backlog at once."""
    async with open_site(tmp_path) as site:
        granted = await site.edge().greet()
        assert isinstance(granted, Welcome)
        assert granted.limits == Limits()
        monkeypatch.setattr(sessions, "QUEUED_MAX", 256 << 10)
        granted = await site.edge("shed").greet()
        assert isinstance(granted, Welcome)
        assert granted.limits.window_bytes == 128 << 10  # of two


async def test_who_has_a_batch_waiting_has_no_more_when_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "QUEUED_MAX", 100_000)
    async with open_site(tmp_path) as site:
        barn, shed, lane = site.edge(), site.edge("shed"), Lanes(heavy(1, 4))
        await barn.greet(tail=4)
        await shed.greet(tail=4)
        await site.log._turn.acquire()  # the disk is slow
        try:
            for seq in (1, 2):
                await barn.send(lane, seq, seq)
            refusal = await barn.answer()
            assert isinstance(refusal, Nack)
            assert refusal.code is NackCode.BUSY
            assert "too many edges wait" in refusal.reason
            await shed.send(lane, 1, 1)
        finally:
            site.log._turn.release()
        for edge in (shed, barn):  # in either order: their batches are checked in threads
            assert isinstance(await edge.answer(), Ack)
        await barn.send(lane, 2, 2)
        answer = await barn.answer()
        assert isinstance(answer, Ack)
        assert answer.floor == 2


@pytest.mark.slow
async def test_a_full_log_says_its_setting_to_the_edge_and_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site(tmp_path, map_bytes_max=2 << 20) as site:
        edge, lane = site.edge(), Lanes(heavy(1, 60))
        await edge.greet(tail=60)
        floor = 0
        with caplog.at_level(logging.ERROR, "hubd.link"):
            for _ in range(60):
                await edge.send(lane, floor + 1, floor + 1)
                answer = await edge.answer()
                if isinstance(answer, Nack):
                    break
                floor += 1
            for _ in range(5):
                await edge.send(lane, floor + 1, floor + 1)
                answer = await edge.answer()
                assert isinstance(answer, Nack)
                assert answer.code is NackCode.BUSY
                assert "`limit` under [log]" in answer.reason
        assert len(caplog.records) == 1
        assert "`limit` under [log]" in caplog.text
        assert "store.limit" not in caplog.text


async def test_what_the_log_cannot_write_ends_no_other_edges_link(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        barn, shed, lane = site.edge(), site.edge("shed"), Lanes(drafts(1, 9))
        await barn.greet(tail=9)
        await shed.greet(tail=9)
        await barn.send(lane, 1, 1, codec=Codec.DEAD, payload=b"", reason="\ud800")
        refusal = await barn.answer()
        assert isinstance(refusal, Nack)
        assert refusal.code is NackCode.BUSY
        await shed.send(lane, 1, 5)
        assert isinstance(await shed.answer(), Ack)


async def test_a_hub_that_stops_tells_its_edges_how_to_come_back(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        edge = site.edge()
        welcome = await edge.greet()
        assert isinstance(welcome, Welcome)
        assert welcome.spread_s == 2 * SESSION_S  # two are registered
        await site.link.farewell()
        goodbye = await edge.next(Bye)
        assert goodbye == Bye(epoch=welcome.epoch, reason="the hub stops", spread_s=2 * SESSION_S)


async def test_a_silent_edge_is_asked_each_heartbeat_and_given_up_after_three(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One that answers stays: both are told the time when it is due, and not before."""
    log = MemoryLog()
    presence = Presence(log)
    granted = ReceiverSettings(heartbeat_s=5.0)
    async with open_memory_hub(random=Random(1)) as net, trio.open_nursery() as nursery:
        nursery.start_soon(HubLink(net, log, presence, granted).run)
        silent, sound = HandEdge(net, "silent"), HandEdge(net, "sound")
        await silent.greet()
        await sound.greet()

        async def answer() -> None:
            while True:
                ping = await sound.next(Ping)
                assert isinstance(ping, Ping)
                pong = Pong(epoch=sound.epoch, token=ping.token, asked_at_ns=0, at_ns=0)
                await sound.link.send(pong)

        def ends_of(edge: str) -> list[str]:
            events = presence.link_events(edge=edge, before=None, limit=9)
            return [one.kind for one in events if one.kind in ("lost", "disconnected")]

        nursery.start_soon(answer)
        begun = trio.current_time()
        for beat in (1, 2):
            await silent.next(Ping)
            assert 5 * beat <= trio.current_time() - begun <= 5 * beat + 2
        await trio.sleep(7.0)
        assert ends_of("silent") == ["lost"]
        await trio.sleep(1000.0)
        assert ends_of("sound") == []
        nursery.cancel_scope.cancel()


@pytest.mark.feature("S5", "F6")
async def test_a_batch_that_comes_ten_times_is_stored_once(tmp_path: Path) -> None:
    """In its session, and in one after another: each time it is acknowledged, and that is all."""
    async with open_site(tmp_path) as site:
        edge, lane = site.edge(), Lanes(drafts(1, 5))
        await edge.greet(tail=5)
        for nth in range(10):
            if nth % 3 == 2:
                await edge.greet(tail=5, again=True)
            await edge.send(lane, 1, 5)
            answer = await edge.answer()
            assert isinstance(answer, Ack)
            assert answer.floor == 5
            assert site.log.head == 1
        assert len(await site.log.read(0)) == 1


class AllAtOnce:
    """Hears greetings that have all come already, as after a cut of the hub's own line."""

    def __init__(self, edges: int) -> None:
        offers = (LaneOffer(tail=0, trimmed=0),) * 3
        self.greetings: list[tuple[Peer, Message]] = [
            (
                Peer(route=b"%d" % n, edge=f"edge{n}"),
                Hello(nonce=1, incarnation=bytes(16), lanes=offers, clock_ns=0, software=""),
            )
            for n in range(edges)
        ]
        self.welcomed = 0
        self.all_welcomed = trio.Event()

    async def receive(self) -> tuple[Peer, Message]:
        if not self.greetings:
            await trio.sleep_forever()
        return self.greetings.pop()

    async def send(self, peer: Peer, message: Message) -> None:
        self.welcomed += isinstance(message, Welcome)
        if self.welcomed == 100:
            self.all_welcomed.set()

    async def aclose(self) -> None:
        self.greetings.clear()


async def test_of_a_fleet_that_comes_back_one_is_let_in_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hundreds at once made each turn of the loop so long that handshakes timed out and what those
    sent who were back was shown seconds later.
    """
    log, hearing, begun = MemoryLog(), AllAtOnce(100), list[int]()
    turns, open_session = 0, MemoryLog.open_session

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def count(log: MemoryLog, *asked: Any) -> Session:
        begun.append(turns)
        return await open_session(log, *asked)

    monkeypatch.setattr(MemoryLog, "open_session", count)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        nursery.start_soon(HubLink(hearing, log, Presence(log), ReceiverSettings()).run)
        await hearing.all_welcomed.wait()
        nursery.cancel_scope.cancel()
    assert len(begun) == 100
    assert max(Counter(begun).values()) <= 2
