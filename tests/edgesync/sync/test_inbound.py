"""What a hub may send that is no sound batch: refused by its code, with nothing changed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from edgesync._native import batch as codec
from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import RecordError
from edgesync.model import Event, EventType, RecordKind
from edgesync.store.journal import EdgeStore
from edgesync.sync import inbound as inbound_module
from edgesync.sync.inbound import NOWHERE, Inbound, InboundQueue, NoRoom, load_floors
from edgesync_transport.lanes.events import Stored
from edgesync_transport.messages import Batch, Codec, Lane, NackCode
from tests.native.rowsmith import Draft, make_rows

pytestmark = pytest.mark.feature("S1", "S8")

LIFE = b"j" * 16


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    with EdgeStore(tmp_path / "store") as found:
        yield found


def inbound_of(store: EdgeStore) -> Inbound:
    made = Inbound(store, edge="barn", wall_ns=lambda: 1)
    made.begin(LIFE, NOWHERE.lanes)
    return made


def batch_of(
    count: int = 2, kind: int = RecordKind.EVENT, first: int = 1, text: bytes = b"x"
) -> Batch:
    body = event_codec.encode(EventType.CUSTOM, 0, 2, "pump", text, 1, 2, 0)
    rows = make_rows([Draft(kind, body, 7, first + n) for n in range(count)], 1, first)
    number, payload = codec.pack(rows, prev_chain=0)
    return Batch(
        epoch=1, incarnation=LIFE, lane=Lane.NORMAL, first=first, last=first + count - 1,
        prev_chain=0, last_chain=codec.last_chain(number, payload, 0), codec=Codec(number),
        payload=payload,
    )  # fmt: skip


async def test_a_sound_batch_is_carried_out_once_and_survives(store: EdgeStore) -> None:
    inbound, one = inbound_of(store), batch_of()
    for _ in range(2):
        done = await inbound.store(5, one)
        assert (done.code, done.floor, done.token) == (None, 2, 5)
    assert inbound.records == 2
    assert load_floors(store) == inbound.floors()
    assert load_floors(store).lanes[Lane.NORMAL].floor == 2


async def test_a_greeting_tells_what_is_on_disk_and_not_what_a_session_began_with(
    store: EdgeStore,
) -> None:
    """A journal of which nothing came is told as unknown: the hub may be restored once more."""
    inbound = inbound_of(store)
    assert inbound.floors() == NOWHERE
    await inbound.store(5, batch_of())
    told = inbound.floors()
    assert told.incarnation == LIFE
    inbound.begin(b"o" * 16, NOWHERE.lanes)
    assert inbound.floors() == told
    inbound.begin(LIFE, told.lanes)
    assert (await inbound.store(6, batch_of())).floor == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"first": 3, "last": 4}, NackCode.GAP),
        ({"first": 2, "last": 3}, NackCode.GAP),
        ({"incarnation": b"o" * 16}, NackCode.GAP),
        ({"prev_chain": 9}, NackCode.CHAIN),
        ({"last_chain": 9}, NackCode.POISON),
        ({"last": 3}, NackCode.POISON),
        ({"payload": b""}, NackCode.POISON),
        ({"codec": Codec.COLUMNS}, NackCode.POISON),
    ],
)
async def test_a_batch_that_is_not_as_it_says_changes_nothing(
    store: EdgeStore, change: dict[str, object], code: NackCode
) -> None:
    inbound = inbound_of(store)
    before = store.state(Lane.CRITICAL).tail
    refused = await inbound.store(1, msgspec.structs.replace(batch_of(), **change))
    assert refused.code is code
    assert load_floors(store) == NOWHERE
    assert store.state(Lane.CRITICAL).tail == before
    assert (await inbound.store(2, batch_of())).code is None


async def test_a_hub_that_tells_without_end_is_held_to_a_rate(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound_module, "BURST_S", 1.0)
    now = 100.0
    inbound = Inbound(store, edge="barn", wall_ns=lambda: 1, clock=lambda: now)
    inbound.begin(LIFE, NOWHERE.lanes)

    def gap_after(floor: int) -> Batch:
        return Batch(
            epoch=1, incarnation=LIFE, lane=Lane.NORMAL, first=floor + 1, last=floor + 1,
            prev_chain=7 if floor else 0, last_chain=7, codec=Codec.GAP, payload=b"", reason="so",
        )  # fmt: skip

    floor = 0
    while (refused := await inbound.store(1, gap_after(floor))).code is None:
        floor = refused.floor
        assert floor <= inbound_module.RATE // 1000, "no rate"
    assert (refused.code, refused.reason) == (NackCode.BUSY, inbound_module.TOO_MUCH)
    assert 0 < refused.pause_s < 1
    now += refused.pause_s
    assert (await inbound.store(1, gap_after(floor))).floor == floor + 1


async def test_what_the_hub_tells_is_an_event_for_it_at_once_and_without_secrets(
    store: EdgeStore,
) -> None:
    tails = list[tuple[int, int, int]]()
    inbound = Inbound(store, edge="barn", wall_ns=lambda: 1, grown=tails.append)
    inbound.begin(LIFE, NOWHERE.lanes)
    assert (await inbound.store(1, batch_of(text=b'{"password": "Sesame"}'))).code is None
    assert tails == [tuple(store.state(lane).tail for lane in Lane)]
    assert tails[0][Lane.CRITICAL] == 2  # of a kind that nobody knows here
    rows = store.read(Lane.CRITICAL, 1, limit_records=9, limit_bytes=1 << 20)
    assert b"downlink_unknown" in rows.data
    assert b"Sesame" not in rows.data


class Filer:
    """Keeps each event in a file, beside the store."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.staged = 0
        self.files: list[bytes] = []
        self.done: list[int] = []

    def stage(self, write: Write, _event: Event) -> Callable[[], None]:
        self.staged += 1
        nth = self.staged
        write.put("meta", b"files", b"%d" % len(self.files))
        return lambda: self.done.append(nth)

    def has_file(self, _event: Event) -> bool:
        return True

    def write_files(self, events: Sequence[Event]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.files += [one.body for one in events]


async def test_files_are_written_before_the_effect_which_is_of_the_time_after_them(
    store: EdgeStore,
) -> None:
    filer = Filer()
    inbound = Inbound(
        store, edge="barn", wall_ns=lambda: 1, handlers={EventType.CUSTOM: filer}
    )  # fmt: skip
    inbound.begin(LIFE, NOWHERE.lanes)
    for refusal, code in ((NoRoom("full"), NackCode.BUSY), (RecordError("no"), NackCode.POISON)):
        filer.refusal = refusal
        assert (await inbound.store(1, batch_of())).code is code
        assert (store.store.get("meta", b"files"), filer.done) == (None, [])
    filer.refusal = None
    assert (await inbound.store(1, batch_of())).code is None
    assert filer.files == [b"x", b"x"]
    assert filer.done == [filer.staged - 1, filer.staged]
    assert store.store.get("meta", b"files") == b"2"


@pytest.mark.parametrize("instead", [Codec.GAP, Codec.DEAD])
async def test_what_is_not_sent_again_is_told_to_who_compares(
    store: EdgeStore, instead: Codec
) -> None:
    missed: list[bool] = []
    inbound = Inbound(
        store, edge="barn", wall_ns=lambda: 1, missed=lambda: missed.append(True)
    )  # fmt: skip
    inbound.begin(LIFE, NOWHERE.lanes)
    one = msgspec.structs.replace(batch_of(), codec=instead, payload=b"", reason="so")
    assert (await inbound.store(1, one)).code is None
    assert missed == ([True] if instead is Codec.GAP else [])


async def test_a_queue_is_empty_once_all_of_it_is_carried_out(nursery: trio.Nursery) -> None:
    gate, answers, seen = trio.Semaphore(0), list[Stored](), list[int]()

    class Slow:
        async def store(self, token: int, _batch: Batch) -> Stored:
            await gate.acquire()
            return Stored(token, token, token)

    async def note_empty() -> None:
        await queue.empty()
        seen.append(len(answers))

    slow: Any = Slow()
    queue = InboundQueue(slow, answers.append)
    nursery.start_soon(queue.run)
    for _ in range(2):
        for token in (1, 2, 3):
            queue.put(token, batch_of())
        nursery.start_soon(note_empty)
        for _ in range(3):
            await wait_all_tasks_blocked()
            gate.release()
        await wait_all_tasks_blocked()
    await queue.empty()
    assert seen == [3, 6]
    assert [one.token for one in answers] == [1, 2, 3] * 2


async def test_records_of_another_kind_are_refused(store: EdgeStore) -> None:
    refused = await inbound_of(store).store(1, batch_of(kind=RecordKind.CELLS))
    assert refused.code is NackCode.POISON


@given(payload=st.binary(max_size=300), number=st.sampled_from([Codec.ROWS, Codec.COLUMNS]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
async def test_whatever_bytes_come_are_refused_or_carried_out(
    store: EdgeStore, payload: bytes, number: Codec
) -> None:
    inbound = inbound_of(store)
    one = msgspec.structs.replace(batch_of(), payload=payload, codec=number)
    assert (await inbound.store(1, one)).code is NackCode.POISON
    assert load_floors(store) == NOWHERE
