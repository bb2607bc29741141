"""What a hub may send that is no sound batch: refused by its code, with nothing changed."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync._native import batch as codec
from edgesync._native import event as event_codec
from edgesync.model import EventType, RecordKind
from edgesync.store.journal import EdgeStore
from edgesync.sync import inbound as inbound_module
from edgesync.sync.inbound import NOWHERE, Inbound, load_floors
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


def batch_of(count: int = 2, kind: int = RecordKind.EVENT, first: int = 1) -> Batch:
    body = event_codec.encode(EventType.CUSTOM, 0, 2, "pump", b"x", 1, 2, 0)
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
