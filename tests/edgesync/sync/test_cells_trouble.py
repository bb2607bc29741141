"""Keys when things go wrong: crashes, copies of disks, restored hubs, wrong clocks, large keys."""

import shutil
import time
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Event, EventType, Lane
from edgesync._native.write import Write
from edgesync.errors import StoreFull
from edgesync.model import RecordKind
from edgesync.store.commit import Tails
from edgesync.store.edgecells import told_since
from edgesync.sync import cells as cells_module
from edgesync_transport.messages import ConflictReport, DeltaSync, FullSync, Message
from hubd.cells import answers
from hubd.log.lmdb import LmdbLog
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("L4", "L5")
HOUR_NS = 3_600 * 10**9


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


def number(node: EdgeNode, key: str) -> int:
    return int(node.get(key) or 0)


async def test_each_kind_of_answer_is_on_the_wire(sites: Sites) -> None:
    async with sites.hub(), sites.node("a") as a, sites.node("b") as b:
        a.set("k", 1)
        b.set("k", 2)
        await settle(a, b)
        a.set("other", 1)
        await settle(a, b)
    kinds = {type(message) for _, message in sites.sent}
    assert {FullSync, DeltaSync, ConflictReport} <= kinds


async def test_what_an_edge_takes_back_after_a_restart(sites: Sites) -> None:
    async with sites.hub():
        async with sites.node("a") as a, sites.node("b") as b:
            a.incr("n", 5)
            b.incr("n", 7)
            await settle(a, b)
            a.incr("n", 1)
        async with sites.node("a") as a, sites.node("b") as b:
            assert number(a, "n") == 13
            await settle(a, b)
            assert number(a, "n") == number(b, "n") == 13
            assert a.cells.space.pending == 0


async def test_what_was_told_is_known_after_a_restart(sites: Sites) -> None:
    """Exactly: up to each seq the hub may name, up to which operation it has heard."""
    async with sites.node("a") as a:
        told: list[tuple[int, int]] = []
        for count in (3, 1, 7):
            for number in range(count):
                a.set(f"key{count}.{number}", Random(count).randbytes(20_000))
            assert a.cells.tell(0)
            a.cells.commit()
            told.append((a.store.state(Lane.NORMAL).tail, a.cells.space.sent))
            await a.emit(Event(type=EventType.CUSTOM, time_ns=0))
        first, second, (third, _) = told
        assert third - second[0] > 2  # a group of several records, and an event
        assert told_since(a.store)[-3:] == [first, second, (third, None)]
        # In the middle of a group, as behind the group before it.
        for floor in (first[0], first[0] + 1, second[0] - 1):
            a.store.acknowledge_sync(Lane.NORMAL, floor, first[0])
            assert told_since(a.store) == [first, second, (third, None)]
        a.store.acknowledge_sync(Lane.NORMAL, third, third)
        assert told_since(a.store) == [(third, None)]


async def test_each_group_is_stored_before_the_next(sites: Sites) -> None:
    async with sites.node("a") as a:
        a.rpush("list", *(b"x" * 200 for _ in range(3000)))
        tails = []
        while a.cells.tell(0):
            assert a.cells.gate()
            a.cells.commit()
            tails.append(a.store.state(Lane.NORMAL).tail)
        assert len(tails) == len(set(tails)) == 2


async def test_the_hub_is_away_and_comes_back_again_and_again(sites: Sites) -> None:
    random, total = Random(5), 0
    async with sites.node("a") as a, sites.node("b") as b:
        for _ in range(6):
            for node in (a, b):
                for _ in range(random.randrange(20)):
                    amount = random.randrange(1, 9)
                    node.incr("n", amount)
                    total += amount
            async with sites.hub():
                await trio.sleep(random.random() / 3)
        async with sites.hub() as hub:
            await settle(a, b)
            assert number(a, "n") == number(b, "n") == total
            assert hub.ask("GET", ["n"]) == b"%d" % total


async def test_a_copied_disk_becomes_another_replica(sites: Sites) -> None:
    """Two gateways with one disk's past: nothing either counted is lost or counted twice."""
    async with sites.hub() as hub:
        async with sites.node("a") as a:
            a.incr("n", 5)
            await settle(a)
            first = a.cells.space.r
        shutil.copytree(sites.folder / "a", sites.folder / "copy")
        async with sites.node("a") as a:
            a.incr("n", 3)
            await settle(a)
        async with sites.node("a", folder=sites.folder / "copy") as copy:
            copy.incr("n", 4)
            await settle(copy)
            assert number(copy, "n") == 12
            assert copy.cells.space.r != first
        async with sites.node("a") as a:
            a.incr("n", 10)
            await settle(a)
            assert number(a, "n") == 22
        assert hub.ask("GET", ["n"]) == b"22"


async def test_the_disk_of_another_gateway_tells_nothing_twice(sites: Sites) -> None:
    async with sites.hub() as hub:
        async with sites.node("a") as a:
            a.incr("n", 5)
            await settle(a)
        async with sites.node("b"):
            pass
        shutil.rmtree(sites.folder / "b" / "data")
        shutil.copytree(sites.folder / "a" / "data", sites.folder / "b" / "data")
        async with sites.node("b") as b:
            b.incr("n", 2)
            await settle(b)
            assert number(b, "n") == 7
        assert hub.ask("GET", ["n"]) == b"7"


async def test_a_disk_put_back_to_an_older_state(sites: Sites) -> None:
    """It had confirmed what it no longer has: it begins anew, and sees no removed key again."""
    async with sites.hub() as hub, sites.node("b") as b:
        async with sites.node("a") as a:
            a.set("gone", 1)
            assert b.get("gone") is None
            await settle(a, b)
            assert b.get("gone") == b"1"
        shutil.copytree(sites.folder / "a", sites.folder / "older")
        b.delete("gone")
        async with sites.node("a") as a:
            await settle(a, b)
            assert a.get("gone") is None
        await until(lambda: hub.mark.collected == hub.space.seq)
        async with sites.node("a", folder=sites.folder / "older") as a:
            assert a.get("gone") == b"1"
            await settle(a, b)
            assert a.get("gone") is None
            assert hub.ask("EXISTS", ["gone"]) == 0


async def test_a_hub_that_lost_its_keys_gets_them_back_from_its_log(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.incr("n", 5)
        b.rpush("l", "x", "y")
        async with sites.hub():
            await settle(a, b)
        shutil.rmtree(sites.folder / "hub" / "cells")
        a.incr("n", 1)
        async with sites.hub() as hub:
            await settle(a, b)
            assert number(a, "n") == number(b, "n") == 6
            assert a.lrange("l") == b.lrange("l") == [b"x", b"y"]
            assert hub.ask("GET", ["n"]) == b"6"


async def test_a_hub_restored_from_a_backup_hears_again_what_it_lost(sites: Sites) -> None:
    folder = sites.folder / "hub"
    store = {"retain": "8mb"}
    async with sites.node("a", store=store) as a, sites.node("b", store=store) as b:
        a.incr("n", 5)
        async with sites.hub():
            await settle(a, b)
        shutil.copytree(folder, sites.folder / "backup")
        b.incr("n", 2)
        a.sadd("s", "m")
        async with sites.hub():
            await settle(a, b)
            assert number(a, "n") == 7
        shutil.rmtree(folder)
        shutil.copytree(sites.folder / "backup", folder)
        restored = LmdbLog(folder / "log")
        restored.renew_generation()
        await restored.aclose()
        async with sites.hub() as hub:
            await settle(a, b)
            assert number(a, "n") == number(b, "n") == 7
            assert a.smembers("s") == b.smembers("s") == {b"m"}
            assert hub.ask("GET", ["n"]) == b"7"


async def test_an_edge_given_up_comes_back_with_its_writes(sites: Sites) -> None:
    async with sites.node("away") as away, sites.node("b") as b:
        away.set("old", 1)
        b.incr("n", 1)
        async with sites.hub():
            await settle(away, b)
        away.incr("n", 10)
        b.delete("old")
        async with sites.hub() as hub:
            # Only b is heard: the other is given up, and what only it would need is forgotten.
            hub.give_up("away")
            await settle(b)
            assert hub.ask("EXISTS", ["old"]) == 0
        async with sites.hub():
            await settle(away, b)
            assert away.get("old") is None
            assert number(away, "n") == number(b, "n") == 11


async def test_others_work_while_an_edge_looks_for_what_the_hub_has_not(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_module, "LOOKED_AT_A_TURN", 2)
    async with sites.node("away") as away, sites.node("b") as b:
        for n in range(9):
            away.set(f"old:{n}", n)
        b.set("b", 1)
        async with sites.hub():
            await settle(away, b)
        for n in range(9):
            b.delete(f"old:{n}")
        away.set("mine", 1)
        forget, turns = away.cells.forget_unlisted, [0]

        def forget_some(after: bytes | None, limit: int) -> bytes | None:
            turns[0] += 1
            # Of keys that were looked at already, and of those that come.
            away.set("between", turns[0])
            away.set(f"old:{turns[0]}", "again")
            return forget(after, limit)

        monkeypatch.setattr(away.cells, "forget_unlisted", forget_some)
        async with sites.hub() as hub:
            hub.give_up("away")
            await settle(b)
        async with sites.hub():
            await settle(away, b)
            assert turns[0] >= 5
            wrote = {f"old:{n}".encode() for n in range(1, turns[0] + 1)}
            for node in (away, b):
                keys = set(node.cells.space.names())
                assert {key for key in keys if node.get(key.decode()) is not None} == {
                    b"b", b"mine", b"between", *wrote,
                }  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"\0", b"\0nonsense", b"\2goes on", b"\1half", b"\7?"])
async def test_a_record_that_is_no_operations_holds_up_nobody(sites: Sites, body: bytes) -> None:
    async with sites.hub() as hub, sites.node("a") as a, sites.node("b") as b:
        assert a.get("k") is b.get("k") is None
        write = Write()
        write.append(Lane.NORMAL, RecordKind.CELLS, body)
        a.recorder.note_grown(await a.store.submit(write))
        a.set("k", "v")
        await settle(a, b)
        assert b.get("k") == b"v"
        assert sites.answers.skipped == (body != b"\1half")
        assert hub.position >= 1


async def test_an_answer_that_is_no_page_stops_no_site(sites: Sites) -> None:
    def spoil(message: Message) -> Message:
        if isinstance(message, FullSync | DeltaSync) and message.payload:
            return msgspec.structs.replace(message, payload=b"\0\7nonsense")
        return message

    async with sites.node("a") as a, sites.node("b") as b:
        a.set("k", "v")
        assert b.get("k") is None
        sites.spoiled = spoil
        async with sites.hub():
            await until(lambda: b.cell_sync is not None and bool(b.cell_sync.last_problem))
            b.set("other", "goes on")
            assert b.get("other") == b"goes on"
            assert b.cell_sync is not None
            assert b.cell_sync.state() == "degraded"
            sites.spoiled = lambda message: message
            await settle(a, b)
            assert b.get("k") == b"v"
            assert b.cell_sync.state() == "idle"


async def test_a_page_of_which_a_refused_commit_took_some_back_is_asked_for_again(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes while it comes in, and there is no room for that."""
    monkeypatch.setattr(cells_module, "RETRY_S", 0.01)
    monkeypatch.setattr(cells_module, "REST", 100.0)
    async with sites.node("a") as a, sites.hub() as hub:
        await sites.answers.run_commands([[b"SET", b"k%d" % n, b"v"] for n in range(300)])
        cells, submit = a.cells, a.store.submit

        async def refuse(write: Write) -> Tails:
            a.store.submit = submit  # type: ignore[method-assign]
            await trio.lowlevel.checkpoint()
            raise StoreFull(used_bytes=1, limit_bytes=1)

        cells._may_log = lambda: False  # type: ignore[method-assign]
        while not cells.space.keys:
            await trio.lowlevel.checkpoint()
        a.store.submit = refuse  # type: ignore[method-assign]
        assert cells.run([b"SET", b"own", b"v"]) == "OK"
        with pytest.raises(StoreFull):
            await cells.wait_durable()
        assert cells.space.keys == 0
        await settle(a)
        assert cells.space.keys == hub.space.keys == 300
        assert a.cell_sync is not None
        assert a.cell_sync.refetches == 0


async def test_a_hub_that_is_another_with_each_answer_is_told_all_but_seldom(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time all keys become records of this edge's lane: the store, and a line that is paid."""
    monkeypatch.setattr(cells_module, "RETRY_S", 0.01)
    spoiled = list[bytes]()

    def spoil(message: Message) -> Message:
        if isinstance(message, FullSync | DeltaSync):
            spoiled.append(Random(len(spoiled)).randbytes(16))
            return msgspec.structs.replace(message, keyspace=spoiled[-1], told=0)
        return message

    async with sites.node("a") as a:
        a.set("k", "v" * 10_000)
        async with sites.hub():
            await settle(a)
            joined = list[bytes]()
            rejoin = a.cells.rejoin

            def count(keyspace: bytes, *rest: Any, **named: Any) -> None:
                joined.append(keyspace)
                rejoin(keyspace, *rest, **named)

            a.cells.rejoin = count  # type: ignore[method-assign]
            sites.spoiled = spoil
            a.set("k", "w")
            await until(lambda: len(spoiled) > 5 * cells_module.REJOINS_BURST)
            assert len(joined) <= cells_module.REJOINS_BURST
            assert a.get("k") == b"w"
            assert a.cell_sync is not None
            assert "again and again" in a.cell_sync.last_problem


async def test_a_question_the_hub_cannot_answer_costs_only_who_asks(sites: Sites) -> None:
    async with sites.hub() as hub, sites.node("a") as a, sites.node("b") as b:
        answer = hub.answer

        def fail(edge: str, *rest: Any) -> Any:
            if edge == "a":
                raise ZeroDivisionError("a mistake of ours")
            return answer(edge, *rest)

        hub.answer = fail  # type: ignore[assignment, method-assign]
        a.set("k", "v")
        b.set("other", 1)
        await until(lambda: hub.ask("EXISTS", ["k", "other"]) == 2)
        await settle(b)
        assert b.get("k") == b"v"
        assert a.get("other") is None
        hub.answer = answer  # type: ignore[method-assign]
        await settle(a)
        assert a.get("other") == b"1"


async def test_care_that_fails_is_tried_again_and_stops_no_hub(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "CARE_FAILED_S", 1.0)
    failures: list[Exception] = []
    async with sites.hub() as hub, sites.node("a") as a:
        due = hub.due

        def fail(*_: object, **__: object) -> None:
            failures.append(ZeroDivisionError("a mistake of ours"))
            raise failures[-1]

        hub.due = fail  # type: ignore[method-assign]
        await until(lambda: bool(failures))
        hub.due = due  # type: ignore[method-assign]
        a.set("k", "v")
        await settle(a)
        a.delete("k")
        await settle(a, rounds=3)
        await until(lambda: hub.mark.collected > 0)


async def test_keys_that_are_not_the_hubs_are_fetched_again(sites: Sites) -> None:
    """A key that is missing, one too many, one behind: whatever mistake or disk made them."""
    scope = [{"prefix": "own/", "direction": "up"}]
    async with (
        sites.hub() as hub,
        sites.node("a", cells={"prefix": scope}) as a,
        sites.node("b") as b,
    ):
        for number_ in range(3000):
            a.set(f"key{number_}", number_)
        a.set("own/alone", 1)
        b.incr("n", 5)
        await settle(a, b)
        checks = await checked(a)
        assert checks == (1, 0)
        assert await checked(b) == (1, 0)

        rows = a.cells.rows
        rows.put(b"kkey7", row_of(a, b"key8"))  # as of a change that was another key's
        rows.put(b"ktoo many", row_of(a, b"key9"))
        rows.delete(b"kkey10")
        await trio.sleep(0.1)
        assert await checked(a) == (2, 1)
        await settle(a)
        assert [a.get(f"key{n}") for n in (7, 8, 10)] == [b"7", b"8", b"10"]
        assert a.get("too many") is None
        a.incr("n", 1)
        await settle(a, b)
        assert await checked(a) == (3, 1)
        assert await checked(b) == (2, 0)
        assert number(a, "n") == number(b, "n") == 6
        assert hub.ask("EXISTS", ["own/alone"]) == 1


def row_of(node: EdgeNode, key: bytes) -> bytes:
    row = node.cells.rows.get(b"k" + key)
    assert row is not None
    return row


async def checked(node: EdgeNode) -> tuple[int, int]:
    """Compare a node's keys with the hub's; how often that has been done, and wrong."""
    sync = node.cell_sync
    assert sync is not None
    before = sync.checks
    sync.check_soon()
    await until(lambda: sync.checks > before)
    return sync.checks, sync.refetches


@pytest.mark.parametrize("row", [b"\xff nonsense", None])
async def test_a_damaged_row_of_an_edge_stops_no_site(sites: Sites, row: bytes | None) -> None:
    async with sites.node("a") as a:
        for key in ("first", "bad", "last"):
            a.set(key, 1)
        if row is None:
            a.cells.rows.delete(b"kbad")
        else:
            a.cells.rows.put(b"kbad", row)
        async with sites.hub() as hub:
            await until(lambda: hub.ask("EXISTS", ["first"]) == 1)
            sync = a.cell_sync
            assert sync is not None
            await until(lambda: "bad" in sync.last_problem)
            assert sync.state() == "degraded"
            a.set("other", 1)
            assert a.get("other") == b"1"


async def test_large_values_and_large_keys_arrive_whole(sites: Sites) -> None:
    random = Random(3)
    value = random.randbytes(700_000)
    async with sites.node("a") as a, sites.node("b") as b:
        a.set("value", value)
        a.rpush("list", *(random.randbytes(200) for _ in range(5000)))
        a.hset("hash", {f"field{n}": random.randbytes(100) for n in range(3000)})
        assert b.get("value") is None
        async with sites.hub():
            await settle(a, b)
            assert b.get("value") == value
            assert b.lrange("list") == a.lrange("list")
            assert b.hgetall("hash") == a.hgetall("hash")
    assert max(message.parts for _, message in sites.sent if isinstance(message, FullSync)) > 1


async def test_a_clock_that_runs_ahead_does_not_win_for_long(sites: Sites) -> None:
    async with sites.node("ahead", wall_ns=lambda: time.time_ns() + 24 * HOUR_NS) as ahead:
        ahead.set("k", "from tomorrow")
        async with sites.node("b") as b, sites.hub() as hub:
            b.cells.note_changes()
            await settle(ahead, b)
            assert b.get("k") == b"from tomorrow"
            assert hub.space.clamped == 1
            b.set("k", "from today")
            await settle(b, ahead)
            assert ahead.get("k") == b.get("k") == b"from today"


@pytest.mark.feature("S25")
async def test_a_gateway_that_woke_up_in_1970(sites: Sites) -> None:
    """What it wrote then is ordered by real time, and a deadline is one from now."""
    begun, offset = time.time_ns(), -(50 * 365 * 24 * HOUR_NS)
    ago = 60 * 10**9

    def right() -> int:
        return time.time_ns() - ago

    def monotonic() -> int:
        return time.monotonic_ns() - ago

    late_node = sites.node("late", wall_ns=lambda: right() + offset, monotonic_ns=monotonic)
    async with late_node as late, sites.node("b", wall_ns=right, monotonic_ns=monotonic) as b:
        b.set("k", "before")
        # A minute: the hub cannot measure a clock more exactly than by half a round trip.
        ago = 0
        late.set("k", "between")
        late.command("SET", "timed", "v", "EX", 1000)
        late.set("only here", "1")
        async with sites.hub() as hub:
            await settle(b, late)
            assert b.get("k") == late.get("k") == b"between"
            left = b.command("TTL", "timed")
            assert isinstance(left, int)
            assert 900 < left <= 1000
            (dot,) = hub.space.siblings(b"only here", b"s")
            assert abs((dot.hlc >> 16) * 10**6 - begun) < 60 * 10**9
            late.set("k", "after")
            await settle(late, b)
            assert b.get("k") == b"after"


@pytest.mark.feature("S25")
async def test_a_clock_set_while_nobody_listens(sites: Sites) -> None:
    offset = -(50 * 365 * 24 * HOUR_NS)
    async with sites.node("late", wall_ns=lambda: time.time_ns() + offset) as late:
        late.set("k", "early")
        offset = 0
        late.set("new", "1")
        stamps = [late.cells.space.siblings(key, b"s")[0].hlc >> 16 for key in (b"k", b"new")]
        assert abs(stamps[0] - stamps[1]) < 60_000


async def test_only_the_hub_removes_what_is_past_its_time(sites: Sites) -> None:
    now = time.time_ns()

    def clock() -> int:
        return now

    async with (
        sites.node("a", wall_ns=clock, monotonic_ns=clock) as a,
        sites.node("b", wall_ns=clock, monotonic_ns=clock) as b,
    ):
        a.set("k", "v", ttl_s=10)
        async with sites.hub() as hub:
            b.cells.note_changes()
            await settle(a, b)
            now += 20 * 10**9
            assert a.get("k") is None
            assert b.get("k") is None
            assert a.cells.space.pending == 0
            assert hub.ask("GET", ["k"]) == b"v"  # the hub's own clock
