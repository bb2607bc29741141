"""Bundles as an edge takes them: whole or not at all, over restarts, whatever comes."""

import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync import EdgeNode, Event, EventType, Reading
from edgesync._native.write import Write
from edgesync.errors import RecordError, StoreFull
from edgesync.model import Lane
from edgesync.rules.assigned import DATABASE, AssignedPart
from edgesync.rules.bundle import Bundle, BundlePiece, parse_piece, pieces_of
from edgesync.rules.defaults import default_chain
from edgesync.rules.files import Rules
from edgesync.rules.part import RulesPart
from tests.edgesync.rules.chains import Node, exported
from tests.edgesync.rules.test_part import rules_of, told
from tests.hubd.yard import Yard
from tests.sites import until

pytestmark = pytest.mark.feature("S18")

PATIENCE_S = 30
SAVE: Node = ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0})
BAD: Node = ("no.SuchNode", "What", {})


def bundle(*nodes: Node, version: int = 1, note: str = "") -> Bundle:
    text = exported(nodes, name="Root", note=note).decode() if nodes else default_chain().decode()
    return Bundle(name="cold", version=version, root="" if not nodes else "Root", files={"a": text})


def long_note() -> str:
    """What no packing makes small: a bundle of three parts."""
    return os.urandom(110_000).hex()


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    """A hub that does not run: the edge is told by the tests."""
    made = Yard(tmp_path / "hub", "")
    (made.folder / "barn").mkdir()
    made.enrol("barn")
    return made


@contextlib.asynccontextmanager
async def edge(yard: Yard) -> AsyncIterator[EdgeNode]:
    hub = {"endpoint": yard.settings.hub.listen[0], "server_key": yard.server_key}
    with trio.fail_after(PATIENCE_S):
        table = {"edge": {"name": "barn"}, "hub": hub}
        async with EdgeNode(table, folder=yard.folder / "barn") as node:
            yield node


def part_of(node: EdgeNode) -> AssignedPart:
    part: AssignedPart = node.part("chains")
    return part


async def take(node: EdgeNode, *pieces: bytes, is_noticed: bool = True) -> None:
    """Store pieces as `Inbound` does; unless they are noticed, as if it was killed then."""
    done = []
    for raw in pieces:
        write = Write()
        event = Event(type=EventType.RULES, body=raw, time_ns=1)
        done.append(part_of(node).stage(write, event))
        await node.store.submit(write)
    for call in done if is_noticed else ():
        call()


async def until_refused(node: EdgeNode, reason: str) -> None:
    """Return once the edge refuses what is wanted for this reason, and the hub is to know."""
    await until(lambda: reason in str(part_of(node).standing.refused))
    await until(lambda: reason in str(told(node, EventType.RULES)[-1]["refused"]))


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_a_bundle_that_came_whole_runs_also_if_the_edge_was_killed_then(
    yard: Yard, is_noticed: bool
) -> None:
    one = bundle(SAVE, note=long_note())
    assert len(pieces_of(one)) == 3
    async with edge(yard) as node:
        await take(node, *pieces_of(one), is_noticed=is_noticed)
        if is_noticed:
            await until(lambda: part_of(node).standing.running == one.digest())
    async with edge(yard) as node:
        assert part_of(node).standing.held == one.digest()
        assert rules_of(node).chains == ("Root",)


async def test_parts_of_a_bundle_change_nothing_before_the_last_is_there(yard: Yard) -> None:
    first, second = bundle(SAVE), bundle(SAVE, SAVE, version=2, note=long_note())
    async with edge(yard) as node:
        await take(node, *pieces_of(first))
        await until(lambda: part_of(node).standing.version == 1)
        await take(node, *pieces_of(second)[:2])
    async with edge(yard) as node:
        assert part_of(node).standing.version == 1
        # The last one without that before it: another journal of the hub, say.
        write = Write()
        for key, _ in node.store.store.scan(DATABASE):
            if second.digest().encode() in key and key.endswith(b"\1"):
                write.delete(DATABASE, key)
        await node.store.submit(write)
        await take(node, pieces_of(second)[2])
        assert part_of(node).standing.version == 1
        assert len(rules_of(node).nodes) == 1
        # It is told that the first is held: the hub sends the second once more.
        await until(lambda: told(node, EventType.RULES)[-1]["held"] == first.digest())
        await take(node, *pieces_of(second))
        await until(lambda: part_of(node).standing.version == 2)
        assert len(rules_of(node).nodes) == 2
        assert node.store.store.count(DATABASE) == 5  # three parts, what is wanted, what stands


async def test_parts_of_bundles_that_never_come_whole_do_not_fill_the_store(yard: Yard) -> None:
    """I7: a hub that sends the second part of ever another bundle."""
    async with edge(yard) as node:
        for n in range(20):
            piece = BundlePiece(f"{n:064x}", 1, 3, b"x" * 1000)
            await take(node, msgspec.msgpack.encode(piece))
        assert node.store.store.count(DATABASE) == 1
        await take(node, *pieces_of(bundle(SAVE, note=long_note())))
        await until(lambda: part_of(node).standing.version == 1)


async def test_a_bundle_that_begins_to_come_costs_the_one_before_nothing(yard: Yard) -> None:
    """The one before is whole and not taken over yet; and while that is read, the next begins."""
    first, second = bundle(SAVE), bundle(SAVE, SAVE, version=2, note=long_note())
    pieces = pieces_of(second)
    async with edge(yard) as node:
        await take(node, *pieces_of(first), pieces[0], is_noticed=False)
    async with edge(yard) as node:
        assert part_of(node).standing.version == 1
        read = part_of(node)._read

        def slowly(digest: str, packed: bytes) -> object:
            trio.from_thread.run(take, node, pieces[0])
            return read(digest, packed)

        third = bundle(SAVE, version=3)
        part_of(node)._read = slowly  # type: ignore[method-assign,assignment]
        await take(node, *pieces_of(third))
        await until(lambda: part_of(node).standing.version == 3)
        part_of(node)._read = read  # type: ignore[method-assign]
        await take(node, *pieces[1:])
        await until(lambda: part_of(node).standing.version == 2)
    async with edge(yard) as node:
        assert len(rules_of(node).nodes) == 2


async def test_what_runs_since_a_kill_runs_after_the_next_if_what_came_then_cannot(
    yard: Yard,
) -> None:
    first, second = bundle(SAVE), bundle(SAVE, SAVE, version=2)
    async with edge(yard) as node:
        await take(node, *pieces_of(first))
        await until(lambda: part_of(node).standing.version == 1)
        await take(node, *pieces_of(second), is_noticed=False)
    async with edge(yard) as node:
        assert part_of(node).standing.version == 2
        await take(node, *pieces_of(bundle(BAD, version=3)), is_noticed=False)
    async with edge(yard) as node:
        standing = part_of(node).standing
        assert (standing.version, standing.running) == (2, second.digest())
        assert "no.SuchNode" in str(standing.refused)
        assert len(rules_of(node).nodes) == 2


async def test_what_begins_to_run_while_others_come_runs_after_a_restart_if_they_cannot(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = bundle(SAVE, SAVE, version=2), bundle(BAD, version=3)
    worse = pieces_of(bundle(BAD, version=4, note=long_note()))
    async with edge(yard) as node:
        await take(node, *pieces_of(bundle(SAVE)))
        await until(lambda: part_of(node).standing.version == 1)
        swap = RulesPart.swap

        async def while_others_come(self: RulesPart, rules: Rules | None) -> None:
            await take(node, *pieces_of(bad), worse[0])
            await swap(self, rules)

        with monkeypatch.context() as patch:
            patch.setattr(RulesPart, "swap", while_others_come)
            await take(node, *pieces_of(good))
            await until_refused(node, "no.SuchNode")
        assert part_of(node).standing.running == good.digest()
    async with edge(yard) as node:
        assert part_of(node).standing.running == good.digest()
        assert rules_of(node).chains == ("Root",)


async def test_what_is_no_bundle_or_cannot_run_is_refused_with_reasons(yard: Yard) -> None:
    good = bundle(SAVE)
    lies = [msgspec.msgpack.encode(BundlePiece("0" * 64, 0, 1, good.pack()))]
    noise = [msgspec.msgpack.encode(BundlePiece("1" * 64, 0, 1, b"noise"))]
    async with edge(yard) as node:
        await take(node, *pieces_of(good))
        await until(lambda: part_of(node).standing.version == 1)
        for pieces, reason in (
            (pieces_of(bundle(BAD, SAVE, version=2)), "'What' is a no.SuchNode"),
            (lies, "not what its digest says"),
            (noise, "no bundle"),
        ):
            await take(node, *pieces)
            await until_refused(node, reason)
            assert part_of(node).standing.running == good.digest()
            assert rules_of(node).chains == ("Root",)
        await take(node, *pieces_of(good))
        await until(lambda: part_of(node).standing.refused == ())
    async with edge(yard) as node:
        assert part_of(node).standing.refused == ()


async def test_a_bundle_whose_reader_fails_is_refused_also_at_a_start(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I8: a bug of ours costs that bundle, not the site."""
    good, other = bundle(SAVE), bundle(SAVE, SAVE, version=2)

    def failing(files: Mapping[str, bytes], *, root: str) -> Rules:
        raise KeyError("\ud800")

    async with edge(yard) as node:
        await take(node, *pieces_of(good))
        await until(lambda: part_of(node).standing.version == 1)
        monkeypatch.setattr("edgesync.rules.files.rules_of", failing)
        await take(node, *pieces_of(other))
        await until_refused(node, "the edge failed: KeyError")
        assert part_of(node).standing.running == good.digest()
        assert rules_of(node).chains == ("Root",)
    async with edge(yard) as node:
        assert "the edge failed" in str(part_of(node).standing.refused)
        monkeypatch.undo()
        await take(node, *pieces_of(good))
        await until(lambda: part_of(node).standing.refused == ())


async def test_what_cannot_be_told_of_nodes_ends_no_edge(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge(yard) as node:
        await take(node, *pieces_of(bundle(SAVE)))
        await until(lambda: part_of(node).standing.version == 1)
        tell_counts, failed = part_of(node)._tell_counts, trio.Event()

        async def failing() -> None:
            monkeypatch.setattr(part_of(node), "_tell_counts", tell_counts)
            failed.set()
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

        monkeypatch.setattr(part_of(node), "_tell_counts", failing)
        part_of(node).tell_again()
        await failed.wait()
        await take(node, *pieces_of(bundle(SAVE, SAVE, version=2)))
        await until(lambda: part_of(node).standing.version == 2)


async def test_a_window_that_is_open_goes_on_in_the_next_version(yard: Yard) -> None:
    window: Node = ("edgesync.WindowNode", "Minute", {"intervalSeconds": 3600})
    async with edge(yard) as node:
        await take(node, *pieces_of(bundle(window)))
        await until(lambda: part_of(node).standing.version == 1)
        await node.ingest([Reading("m", "t", 1.0, time.time_ns())])
        before = dict(node.store.store.scan("rules"))
        assert before
        await take(node, *pieces_of(bundle(window, SAVE, version=2)))
        await until(lambda: part_of(node).standing.version == 2)
        assert dict(node.store.store.scan("rules")) == before
        await take(node, *pieces_of(bundle(SAVE, version=3)))
        await until(lambda: part_of(node).standing.version == 3)
        await node.ingest([Reading("m", "t", 1.0, time.time_ns())])
        assert node.store.store.count("rules") == 0


async def test_an_edge_that_was_never_assigned_any_tells_the_hub_nothing(yard: Yard) -> None:
    async with edge(yard) as node:
        await trio.sleep(0.2)
        assert told(node, EventType.RULES) == []
        part_of(node).tell_again()  # one side was restored
        await until(lambda: len(told(node, EventType.RULES)) == 1)
        assert told(node, EventType.RULES)[0]["held"] == ""


async def test_a_hub_that_is_restored_while_it_is_told_is_told_again(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge(yard) as node:
        submit, restores = node.store.submit, [1]

        async def slow(write: Write) -> object:
            done = await submit(write)
            if restores[0] and any(write.appends):
                restores[0] -= 1
                part_of(node).tell_again()
            return done

        monkeypatch.setattr(node.store, "submit", slow)
        await take(node, *pieces_of(bundle(SAVE)))
        await until(lambda: len(told(node, EventType.RULES)) == 2)
        assert [one["source"] for one in told(node, EventType.RULES)] == ["hub", "hub"]


async def test_what_the_hub_is_to_know_waits_for_a_full_store(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesync.rules.assigned.RETRY_S", 0.05)
    async with edge(yard) as node:
        submit, fails = node.store.submit, [3]

        async def refusing(write: Write) -> object:
            if fails[0] and any(write.appends):
                fails[0] -= 1
                raise StoreFull(used_bytes=9, limit_bytes=9)
            return await submit(write)

        monkeypatch.setattr(node.store, "submit", refusing)
        await take(node, *pieces_of(bundle(SAVE)))
        await until(lambda: len(told(node, EventType.RULES)) == 1)
        assert fails == [0]
        assert told(node, EventType.RULES)[0]["source"] == "hub"
        assert node.store.state(Lane.NORMAL).tail >= 1


@given(raw=st.binary(max_size=100))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_whatever_bytes_come_are_a_part_or_refused(raw: bytes) -> None:
    with contextlib.suppress(RecordError):
        found = parse_piece(raw)
        assert found.nth < max(found.count, 1)


@pytest.mark.parametrize("piece", [
    ["x" * 64, 0, 1, b""], ["0" * 63, 0, 1, b""], ["0" * 64, 1, 1, b""], ["0" * 64, 0, 99, b""],
    ["0" * 64, 0, 0, b""], ["", 0, 1, b""], ["0" * 64, 0, 1, b"x" * 50_000], ["0" * 64, -1, 1, b""],
])  # fmt: skip
def test_a_part_that_none_can_be_is_refused(piece: list[object]) -> None:
    with pytest.raises(RecordError):
        parse_piece(msgspec.msgpack.encode(piece))
