"""Commands see each other's work at once; who is told of it is told after the disk has it."""

import select
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from edgesync import EdgeNode
from edgesync._native.edgekeys import EdgeKeys
from edgesync._native.overlay import Overlay
from edgesync._native.resp import ReplyError
from edgesync._native.store import Store
from edgesync._native.wal import Wal, replay
from edgesync._native.write import Write
from edgesync.cells import DATABASE
from edgesync.cells.commands import Call, carry_out
from edgesync.errors import CommandError, StoreFull
from edgesync.store.directory import WAL, make_wal
from edgesync.store.edgecells import EdgeCells
from edgesync.store.journal import EdgeStore
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("L1", "L4", "L13")

STEPS = ("take", "commit", "log", "landed", "overtake")
REQUESTS = st.builds(
    lambda text, key, other: text.format(k=key, j=other).encode().split(),
    st.sampled_from((
        "SET {k} v", "SET {k} w", "INCR {k}", "DEL {k}", "GET {k}", "EXPIRE {k} 100", "PERSIST {k}",
        "HSET {k} f 1 g 2", "HINCRBY {k} f 3", "HDEL {k} f", "RPUSH {k} a b", "LPOP {k}",
        "SADD {k} m n", "SREM {k} m", "ZADD {k} 1 m 2 n", "ZINCRBY {k} 5 m", "ZREM {k} n",
        "RENAME {k} {j}", "MSET {k} 1 {j} 2", "LRANGE {k} 0 -1", "ZRANGE {k} 0 -1", "DBSIZE",
    )),
    st.sampled_from(("k0", "k1", "k2")),
    st.sampled_from(("k0", "k1", "k2")),
)  # fmt: skip


def open_cells(folder: Path) -> tuple[EdgeStore, EdgeCells]:
    store = EdgeStore(folder, databases=(DATABASE,), map_bytes_max=4 << 20)
    return store, EdgeCells(store, random=Random(1))


@pytest.mark.slow
def test_an_overlay_is_a_map_whatever_is_committed_when(tmp_path: Path) -> None:
    random = Random(3)
    make_wal(tmp_path, 8000)
    wal = Wal(str(tmp_path / WAL))
    with Store(str(tmp_path / "s"), databases=("x",)) as store:
        rows, model = Overlay(store, "x"), dict[bytes, bytes]()
        answered = taken = model  # as it was after the last commit, and when the next was frozen
        under_way, write, lap, logged = "", Write(), bytes(8), 0
        for _ in range(12_000):
            key = b"%03d" % random.randrange(300)
            match random.randrange(14):
                case 0 | 1 | 2 | 3:
                    rows.put(key, value := b"%d" % random.randrange(99))
                    model[key] = value
                case 4 | 5 | 6:
                    rows.delete(key)
                    model.pop(key, None)
                case 7 if not under_way:
                    under_way, taken = "store", dict(model)
                    write = rows.freeze()
                case 8 | 9 if not under_way and rows.is_changed:
                    under_way, taken = "log" if rows.freeze_into(wal) else "", dict(model)
                case 10 if under_way:
                    if under_way == "log":
                        select.select([wal], [], [])
                        assert wal.landed()
                    if random.random() < 0.1:  # whoever commits is told that it was refused
                        model = dict(answered)
                        rows.abandon()
                        wal.spoil()
                    elif under_way == "log":
                        answered = taken
                        rows.landed()
                        logged += 1
                        found = dict(store.scan("x")) | replay((tmp_path / WAL).read_bytes(), lap)
                        assert {one: raw for one, raw in found.items() if raw is not None} == taken
                    else:
                        answered = taken
                        store.apply(write)
                        rows.committed()
                        assert dict(store.scan("x")) == taken
                        wal.begin(lap := random.randbytes(8))
                    under_way = ""
                case 11:
                    assert rows.get(key) == model.get(key)
                case _:
                    start, stop = sorted((key, b"%03d" % random.randrange(300)))
                    limit, reverse = random.randrange(1, 20), random.random() < 0.5
                    meant = sorted(one for one in model if start <= one < stop)
                    meant = meant[::-1][:limit] if reverse else meant[:limit]
                    page = rows.scan(start, stop, limit=limit, reverse=reverse)
                    assert page == [(one, model[one]) for one in meant]
    wal.close()
    assert logged > 100


@pytest.mark.slow
@given(st.data())
def test_keys_on_disk_are_those_of_the_plain_view(data: st.DataObject) -> None:
    """Rows are the same whether a keyspace reaches its rows directly or by the plain methods."""
    plain = MemoryView()
    with TemporaryDirectory() as folder, Store(folder + "/s", databases=("x",)) as store:
        make_wal(Path(folder), 8000)
        wal_path = folder + "/" + WAL
        wal = Wal(wal_path)
        rows = Overlay(store, "x")
        spaces = EdgeKeys(plain), EdgeKeys(rows)
        calls = [Call(space, Random(1)) for space in spaces]
        # What goes to the store, nothing if it is the log; and the plain rows when that began.
        under_way: tuple[Write | None, dict[bytes, bytes]] | None = None
        lap = bytes(8)
        for _ in range(data.draw(st.integers(1, 40))):
            match data.draw(st.sampled_from(("run", "run", "run", "run", "undone", *STEPS))):
                case "run":
                    request = data.draw(REQUESTS)
                    assert same(carry_out(calls[0], request), carry_out(calls[1], request))
                case "undone":
                    spaces[1].save_counters()
                    rows.mark()
                    carry_out(calls[1], data.draw(REQUESTS))
                    rows.undo()
                    spaces[1].load_counters()
                case "take":
                    assert str(spaces[0].take(2)) == str(spaces[1].take(2))
                case "commit" if under_way is None:
                    for space in spaces:
                        space.save_counters()
                    under_way = rows.freeze(), plain.rows()
                case "log" if under_way is None and wal.is_usable:
                    for space in spaces:
                        space.save_counters()
                    under_way = (None, plain.rows()) if rows.freeze_into(wal) else None
                case "landed" if under_way is not None:
                    write, meant = under_way
                    if write is not None:
                        store.apply(write)
                        rows.committed()
                        wal.begin(lap := lap_after(lap))
                    else:
                        select.select([wal], [], [])
                        assert wal.landed()
                        rows.landed()
                    assert on_disk(store, replay(Path(wal_path).read_bytes(), lap)) == meant
                    under_way = None
                case "overtake":
                    for space in spaces:
                        space.save_counters()
                    last = rows.freeze_all()
                    if under_way is not None and under_way[0] is not None:
                        store.apply(under_way[0])
                    elif under_way is not None:  # what could not be written into the log
                        wal.landed()
                    store.apply(last)
                    rows.committed()
                    wal.begin(lap := lap_after(lap))
                    assert on_disk(store, {}) == plain.rows()
                    under_way = None
            for space in spaces:
                space.save_counters()
            assert rows.scan(b"", b"\xff", limit=10_000) == sorted(plain.rows().items())
        wal.close()


def lap_after(lap: bytes) -> bytes:
    return (int.from_bytes(lap, "big") + 1).to_bytes(8, "big")


def on_disk(store: Store, logged: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    rows = dict(store.scan("x", limit=10_000)) | logged
    return {row: value for row, value in rows.items() if value is not None}


def same(one: object, other: object) -> bool:
    return str(one) == str(other) if isinstance(one, ReplyError) else one == other


async def test_a_reply_waits_for_the_commit_of_what_it_read(tmp_path: Path) -> None:
    store, cells = open_cells(tmp_path / "s")
    with store:
        assert cells.gate() == 0
        assert cells.run([b"set", b"k", b"1"]) == "OK"
        assert cells.run([b"get", b"k"]) == b"1"
        assert cells.gate() == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cells.keep_committing)
            await cells.wait_durable()
            assert cells.gate() == 0
            cells.run([b"incr", b"k"])
            cells.commit()  # does not wait for the loop
            assert cells.gate() == 0
            await trio.sleep(0.01)
            cells.run([b"incr", b"k"])
            await cells.wait_durable()
            nursery.cancel_scope.cancel()
    store, cells = open_cells(tmp_path / "s")
    with store:
        assert cells.run([b"get", b"k"]) == b"3"


class SlowDisk:
    """A disk whose commits take ten milliseconds."""

    def __init__(self, store: EdgeStore) -> None:
        self.store = store.store
        self.submit_sync = store.submit_sync

    async def submit(self, write: Write) -> tuple[int, int, int]:
        await trio.sleep(0.01)
        return self.store.apply(write)


@pytest.mark.parametrize(
    ("late_s", "commits"),
    [(0.0005, 20), (0.001, 20), (0.005, 40)],
    ids=["at once", "a little later", "not in time"],
)
async def test_those_answered_together_are_committed_together(
    late_s: float, commits: int, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """Two clients write whenever they are answered, one of them a little later."""
    with EdgeStore(tmp_path, databases=(DATABASE,), map_bytes_max=3 << 20) as store:
        cells = EdgeCells(SlowDisk(store), random=Random(1))

        async def keep_writing(key: bytes, pause_s: float) -> None:
            for number in range(20):
                await trio.sleep(pause_s)
                cells.run([b"SET", key, b"%d" % number])
                await cells.wait_durable()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cells.keep_committing)
            async with trio.open_nursery() as clients:
                clients.start_soon(keep_writing, b"a", 0.0)
                clients.start_soon(keep_writing, b"b", late_s)
            nursery.cancel_scope.cancel()
        # The first one is alone in any case, and whoever is left at the end.
        assert commits - 2 <= cells.generation - 1 <= commits + 2
        assert cells.run([b"MGET", b"a", b"b"]) == [b"19", b"19"]


def test_what_was_refused_has_not_happened(tmp_path: Path) -> None:
    store, cells = open_cells(tmp_path / "s")
    with store:
        cells.run([b"set", b"first", b"1"])
        cells.commit()
        made = cells.space.n
        full = False
        for number in range(2000):
            cells.run([b"set", b"k%d" % number, Random(number).randbytes(8000)])
            try:
                cells.commit()
            except StoreFull:
                full = True
                assert cells.run([b"get", b"k%d" % number]) is None
                assert cells.space.n == made + number
                break
        assert full
        assert cells.run([b"get", b"first"]) == b"1"
        assert cells.run([b"dbsize"]) == number + 1


async def test_a_program_uses_keys_like_any_client(tmp_path: Path) -> None:
    async with EdgeNode({"edge": {"name": "till"}}, folder=tmp_path) as node:
        node.set("k", "v", ttl_s=100)
        assert node.get("k") == b"v"
        assert node.incr("n", 5) == 5
        assert node.hset("h", {"a": 1}) == 1
        assert node.hincrby("h", "a") == 2
        assert node.hgetall("h") == {b"a": b"2"}
        assert node.rpush("l", "x", "y") == node.lpush("l", "w") - 1 == 2
        assert node.lrange("l") == [b"w", b"x", b"y"]
        assert node.sadd("s", "m") == 1
        assert node.smembers("s") == {b"m"}
        assert node.sismember("s", "m")
        assert node.srem("s", "m") == 1
        assert not node.exists("s")
        assert node.hget("h", "a") == b"2"
        assert node.hdel("h", "a") == 1
        assert node.zadd("z", {"x": 2.5, "y": 1}) == 2
        assert node.zincrby("z", "y", 0.5) == 1.5
        assert node.zscore("z", "y") == 1.5
        assert node.zrange("z") == [b"y", b"x"]
        assert node.zrem("z", "x") == 1
        assert node.rpush("ends", "1", "2", "3") == 3
        assert node.lpop("ends") == b"1"
        assert node.rpop("ends") == b"3"
        assert node.mget("ends", "nothing") == [None, None]
        assert node.ttl("ends") is None
        assert node.expire("ends", 50)
        assert 40 < (node.ttl("ends") or 0) <= 50
        assert await node.execute("ZADD", "z", 1, "m") == 1
        with pytest.raises(CommandError, match="WRONGTYPE"):
            node.incr("l")
        assert node.delete("k", "nothing") == 1
    with EdgeNode.local(tmp_path / "data") as again:
        assert again.get("n") == b"5"
        again.set("n", 7)
    with EdgeNode.local(tmp_path / "data") as third:
        assert third.get("n") == b"7"


class OpeningsCounted(MemoryView):
    """Counts the rows of openings that are read."""

    read = 0

    def scan(
        self, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        rows = super().scan(start, stop, limit=limit, reverse=reverse)
        self.read += len(rows) if start.startswith(b"o") else 0
        return rows


@pytest.mark.parametrize("openings", [10, 1000])
def test_taking_operations_does_not_read_every_opening(openings: int) -> None:
    """A store that was opened often while the hub was away: each start wrote something."""
    view = OpeningsCounted()
    space = EdgeKeys(view, may_pack=False)
    space.put(b"before", b"s", b"1")
    for opening in range(1, openings + 1):
        space.open_as(opening)
        space.put(b"k%d" % opening, b"s", b"1")
    for n in range(100):
        space.put(b"more%d" % n, b"s", b"1")
    view.read, taken = 0, list[tuple[int, int]]()
    while ops := space.take():
        taken.append((space.taken_in, len(ops)))
    assert taken == [(n, 1) for n in range(openings)] + [(openings, 101)]
    assert view.read <= 4 * (openings + 1)
    assert [(op.n, space.taken_in) for op in space.take(1, again=openings)] == [
        (openings + 1, openings)
    ]
