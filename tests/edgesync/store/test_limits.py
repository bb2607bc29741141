"""Presets as real limits: what goes beyond them has not happened, and what takes away goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync import EdgeNode
from edgesync._native.hubkeys import HubKeys
from edgesync._native.overlay import Overlay
from edgesync._native.resp import ReplyError
from edgesync.cells import DATABASE
from edgesync.cells.commands import TABLE
from edgesync.cells.guard import Guard
from edgesync.cells.presets import PRESETS, Limits
from edgesync.errors import CommandError
from edgesync.store.edgecells import EdgeCells
from edgesync.store.journal import EdgeStore
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("L7")


class Site:
    """An edge's keys on disk, with a clock of its own."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.store = EdgeStore(folder, databases=(DATABASE,), sync="none")
        self.now_ns = 1_700_000_000 * 10**9
        self.cells = EdgeCells(
            self.store, random=Random(1), may_pack=False, wall_ns=lambda: self.now_ns
        )
        self.guard = Guard(self.cells.rows, self.cells.space, limits)
        self.cells.call.guard = self.guard

    def ask(self, *request: Any) -> Any:
        return self.cells.run([one if isinstance(one, bytes) else str(one).encode()
                               for one in request])  # fmt: skip

    def state(self) -> tuple[Any, ...]:
        space = self.cells.space
        rows = [(row, raw) for row, raw in space.walk(b"", b"\xff") if row != b"a"]
        return rows, space.n, space.keys, space.pending, space.data


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "store", Limits("tiny", 3, 200, 64, may_pack=False))
    yield made
    made.store.close()


def test_one_key_too_many_is_refused_by_name_and_leaves_no_trace(site: Site) -> None:
    for number in range(3):
        assert site.ask("SET", f"key{number}", "v") == "OK"
    before = site.state()
    refused = site.ask("HSET", "key3", "f", "v")
    assert isinstance(refused, ReplyError)
    assert str(refused) == (
        "OOM preset tiny holds at most 3 keys; delete keys or choose a larger [cells] preset"
    )
    assert site.state() == before
    assert site.ask("SET", "key0", "w") == "OK"
    assert site.ask("DEL", "key1") == 1
    assert site.ask("HSET", "key3", "f", "v") == 1


def test_data_beyond_the_budget_is_refused_and_overwrites_that_do_not_grow_go_on(
    site: Site,
) -> None:
    assert site.ask("SET", "a", "x" * 100) == "OK"
    assert site.ask("SET", "b", "x" * 90) == "OK"
    before = site.state()
    for growing in (
        ("APPEND", "a", "123456789"), ("SETRANGE", "a", "150", "x"), ("RPUSH", "c", "1234567"),
        ("COPY", "a", "c"), ("MSET", "a", "", "b", "x" * 300), ("SET", "a", "x" * 109),
    ):  # fmt: skip
        assert "at most 200 bytes" in str(site.ask(*growing)), growing
        assert site.state() == before
    assert site.ask("SET", "a", "y" * 100) == "OK"
    assert site.ask("SET", "a", "y") == "OK"
    assert site.ask("RPUSH", "c", "1234567") == 1


def test_what_was_refused_is_not_committed_and_numbers_have_no_gap(site: Site) -> None:
    for number in range(3):
        site.ask("RPUSH", f"key{number}", "v", "w")
    site.cells.commit()
    assert not site.cells.rows.is_changed
    made = site.cells.space.n
    for _ in range(5):
        site.ask("RPUSH", "key9", "v")
    assert not site.cells.rows.is_changed
    site.ask("RPUSH", "key0", "z")
    assert site.cells.space.n == made + 1
    site.cells.commit()
    assert site.ask("LRANGE", "key0", 0, -1) == [b"v", b"w", b"z"]
    assert site.cells.space.weigh() == site.cells.space.data


def test_a_command_that_changes_nothing_leaves_nothing_to_commit(site: Site) -> None:
    site.ask("SET", "a", "v")
    site.cells.commit()
    assert site.ask("SETNX", "a", "w") == 0
    assert not site.cells.rows.is_changed


def test_at_critical_what_adds_is_refused_and_what_takes_away_goes_on(site: Site) -> None:
    site.ask("RPUSH", "list", *range(5))
    site.guard.refusal = lambda: "edge resource critical: memory 96.1%"
    for one in ("SET a b", "HSET h f v", "INCR n", "RPUSH list x", "RENAME list other",
                "SADD s m", "ZADD z 1 m", "MSET a b", "LSET list 0 x"):  # fmt: skip
        assert str(site.ask(*one.split())) == "OOM edge resource critical: memory 96.1%"
    assert site.ask("LPOP", "list") == b"0"
    assert site.ask("LTRIM", "list", 0, 2) == "OK"
    assert site.ask("LREM", "list", 0, "1") == 1
    assert site.ask("EXPIRE", "list", "100") == 1
    assert site.ask("LRANGE", "list", 0, -1) == [b"2", b"3"]
    assert site.ask("DEL", "list") == 1
    site.guard.refusal = None
    assert site.ask("SET", "a", "b") == "OK"


def test_room_is_made_for_data_before_a_write_is_refused(site: Site) -> None:
    lacking: list[int] = []
    freed = 0

    def make_room(nbytes: int) -> int:
        lacking.append(nbytes)
        if freed:
            site.cells.space.delete(b"a")
        return freed

    site.guard = site.cells.call.guard = Guard(
        site.cells.rows, site.cells.space, site.guard.limits, make_room
    )
    for key in ("a", "b"):
        assert site.ask("SET", key, "x" * 64) == "OK"
    assert site.ask("SET", "b", "x" * 64) == "OK"
    before = site.state()
    refused = site.ask("HSET", "c", "f", "y" * 64, "g", "y" * 10)
    assert str(refused).startswith("OOM preset tiny holds at most 200 bytes")
    assert site.state() == before
    assert lacking == [2 * 65 + 1 + 2 * 2 + 74 - 200]
    freed = 65
    assert site.ask("HSET", "c", "f", "y" * 64, "g", "y" * 10) == 2
    assert site.cells.space.data == 65 + 1 + 2 * 2 + 74
    lacking.clear()
    for key in ("d", "e"):
        site.ask("SET", key, "v")
    assert str(site.ask("SET", "f", "v")).startswith("OOM preset tiny holds at most 3 keys")
    assert lacking == [], "no value makes room for a key"


def test_what_was_looked_for_in_vain_is_not_looked_for_with_every_write(tmp_path: Path) -> None:
    hub, store = HubKeys(MemoryView()), EdgeStore(tmp_path, databases=(DATABASE,), sync="none")
    with store:
        cells = EdgeCells(store, evicts=True, random=Random(1), may_pack=False)
        cells.space.rejoin(1)
        cells.ask("SET", ("k", "x" * 64))
        assert cells.make_room(1) == 0
        for op in cells.space.take():
            hub.hear(1, op)
        # It may go now, but nobody has looked.
        cells.space.deliver(hub.page(0, 0)[0], 1)
        assert cells.make_room(1) == 0
        cells.take_in(cells.cursor, [], applied=0, stable=0, is_all=False)
        assert cells.make_room(1) == 64
        assert cells.space.is_evicted(b"k")
        count = cells.commands
        assert str(cells.run([b"GET", b"k"])).startswith("EVICTED 'k'")
        assert (cells.commands, cells.errors) == (count, 0), "it has not been run"


def test_every_write_either_may_add_or_takes_something_away() -> None:
    frees = {one.name for one in TABLE.values() if one.writes and not one.grows}
    assert {"del", "unlink", "hdel", "srem", "zrem", "lrem", "lpop", "rpop", "ltrim", "expire",
            "persist", "flushdb", "spop", "zpopmin"} < frees  # fmt: skip
    assert not [one.name for one in TABLE.values() if one.grows and not one.writes]


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
VALUES = st.binary(max_size=70)
COMMANDS = st.one_of(
    st.tuples(st.just("SET"), KEYS, VALUES),
    st.tuples(st.just("APPEND"), KEYS, VALUES),
    st.tuples(st.just("HSET"), KEYS, KEYS, VALUES, KEYS, VALUES),
    st.tuples(st.just("HDEL"), KEYS, KEYS),
    st.tuples(st.just("RPUSH"), KEYS, VALUES, VALUES),
    st.tuples(st.just("LPOP"), KEYS),
    st.tuples(st.just("INCRBY"), KEYS, st.integers(-9, 9)),
    st.tuples(st.just("ZADD"), KEYS, st.integers(-9, 9), KEYS),
    st.tuples(st.just("SADD"), KEYS, VALUES),
    st.tuples(st.just("COPY"), KEYS, KEYS, st.just("REPLACE")),
    st.tuples(st.just("PEXPIRE"), KEYS, st.integers(1, 50)),
    st.tuples(st.just("DEL"), KEYS, KEYS),
    st.just(("COMMIT",)),
    st.just(("LATER",)),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(COMMANDS, max_size=40))
def test_whatever_clients_do_the_limits_hold_and_the_count_is_exact(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[Any, ...]]
) -> None:
    limits = Limits("tiny", 3, 250, 64, may_pack=False)
    site = Site(tmp_path_factory.mktemp("site"), limits)
    space = site.cells.space
    try:
        for request in requests:
            if request[0] == "COMMIT":
                site.cells.commit()
                continue
            if request[0] == "LATER":
                site.now_ns += 20 * 10**6
                continue
            before = site.state()
            reply = site.ask(*request)
            if isinstance(reply, ReplyError) and str(reply).startswith("OOM"):
                assert site.state() == before
            assert space.keys <= limits.keys
            assert space.data <= limits.data
            assert space.data == space.weigh()
    finally:
        site.store.close()


def test_changes_taken_back_are_gone_from_every_look(tmp_path: Path) -> None:
    with EdgeStore(tmp_path, databases=(DATABASE,), sync="none") as store:
        rows = Overlay(store.store, DATABASE)
        for name in (b"a", b"b", b"c"):
            rows.put(name, b"stored")
        store.submit_sync(rows.freeze())
        rows.committed()
        rows.put(b"b", b"changed")
        write = rows.freeze()
        rows.put(b"d", b"new")
        seen = rows.scan(b"", b"z", limit=9)
        rows.mark()
        for name, value in ((b"a", b"1"), (b"b", b"2"), (b"d", b"3"), (b"e", b"4"), (b"e", b"5")):
            rows.put(name, value)
        rows.delete(b"c")
        assert len(rows.scan(b"", b"z", limit=9)) == 4
        rows.undo()
        assert rows.scan(b"", b"z", limit=9) == seen
        store.submit_sync(write)
        rows.committed()
        assert rows.scan(b"", b"z", limit=9) == seen


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_have_the_limits_of_their_table(tmp_path: Path, name: str) -> None:
    table = {
        "minimal": (4, 10_000, 64 << 10, False), "iot": (2, 1_000, 4 << 10, True),
        "mobile": (32, 50_000, 1 << 20, True), "standard": (16, 100_000, 1 << 20, False),
        "full": (64, 1_000_000, 1 << 20, True),  # value_limit is the smaller one there
    }  # fmt: skip
    megabytes, keys, value, packs = table[name]
    settings = {"edge": {"data_dir": str(tmp_path)}, "cells": {"preset": name}}
    with EdgeNode(settings) as node:
        limits = node.settings.cells.limits()
        assert limits is not None
        assert (limits.data, limits.keys) == (megabytes << 20, keys)
        assert node.cells.call.value_max == value
        node.set("packed", "x" * 4000)
        kind = node.command("OBJECT", "ENCODING", "packed")
        assert kind == (b"lz4" if packs else b"raw")


def test_a_preset_fills_up_for_a_program_that_embeds_the_edge(tmp_path: Path) -> None:
    settings = {"edge": {"data_dir": str(tmp_path)}, "cells": {"preset": "iot"}}
    with EdgeNode(settings) as node:
        node.command("MSET", *[part for n in range(1000) for part in (f"key{n}", "v")])
        with pytest.raises(CommandError, match="OOM preset iot holds at most 1000 keys"):
            node.set("one more", "v")
        node.delete("key0")
        node.set("one more", "v")
    with EdgeNode(settings) as again:
        with pytest.raises(CommandError, match="OOM preset iot"):
            again.hset("and another", {"f": json.dumps({})})
        assert again.get("one more") == b"v"


def test_keys_written_before_there_was_a_count_are_counted(tmp_path: Path) -> None:
    with Site(tmp_path).store:
        pass
    site = Site(tmp_path)
    with site.store:
        site.ask("HSET", "h", "f", "value")
        site.cells.rows.delete(b"w")
        site.cells.commit()
    site = Site(tmp_path)
    with site.store:
        assert site.cells.space.data == len("h") + len("hf") + len("value")
        site.ask("HSET", "h", "f", "v")
        assert site.cells.space.data == len("h") + len("hf") + len("v") == site.cells.space.weigh()
