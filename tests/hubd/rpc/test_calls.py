"""Calls of devices in owned state, over both databases: made once, moved on by what edges tell."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
import trio
from msgspec import Raw

from edgesync._native import batch
from edgesync._native import event as event_codec
from edgesync.errors import RecordError
from edgesync.rpc.model import Report, State, parse_report, parse_request
from edgesync_transport.lanes.events import Load, Loaded
from edgesync_transport.messages import Lane
from hubd.downlink import journal as journal_module
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import DownlinkFull, Journal
from hubd.errors import EdgeUnknown
from hubd.log.memory import MemoryLog
from hubd.owned.database import FILE
from hubd.registry import Registry, open_registry
from hubd.rpc import calls as calls_module
from hubd.rpc.calls import CallRefused, Calls, CallView, NewCall
from hubd.rpc.service import GIVEN_UP, RpcService
from tests.hubd.log.test_contract import INCARNATION, NOWHERE, Lanes, drafts

pytestmark = pytest.mark.feature("S24")

SECOND = 10**9


class Clock:
    now = 10**18

    stepped = 0

    def __call__(self) -> int:
        return self.now + self.stepped

    def monotonic_ns(self) -> int:
        return self.now - 10**17


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, owned_url: sa.URL | None) -> Iterator[Registry]:
    with closing(open_registry(tmp_path, owned_url)) as found:
        found.tenants.add("acme")
        found.enrolments.invite("barn", valid_s=900)
        found.enrolments.invite("mill", tenant="acme", valid_s=900)
        yield found


@pytest.fixture
def calls(registry: Registry, clock: Clock) -> Calls:
    journal = Journal(registry.owned, clock_ns=clock)
    return Calls(registry.owned, journal, clock_ns=clock, monotonic_ns=clock.monotonic_ns)


def new(method: str = "go", *, ttl_s: float = 60, one_way: bool = False, id: str = "") -> NewCall:
    return NewCall(
        device="pump", method=method, params=b'{"a":1}', ttl_s=ttl_s, one_way=one_way, id=id
    )


def tell(calls: Calls, call: CallView, state: State, at_ns: int, **more: object) -> CallView:
    report = Report(id=call.id, state=state, at_ns=at_ns, **more)  # type: ignore[arg-type]
    calls.take("g", 1, [("default", call.edge, call.device, report)])
    found = calls.one("default", call.id)
    assert found is not None
    return found


def test_a_call_and_its_record_for_the_edge_are_one_transaction(
    calls: Calls, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, tail = calls.send("default", "barn", new())
    assert (call.state, call.is_final, tail) == (State.QUEUED, False, 1)
    loaded = calls._journal.load("barn", Load(Lane.CRITICAL, 1, 9, 9, 1 << 20))
    assert isinstance(loaded, Loaded)
    _, ((_, record),) = batch.columns(loaded.codec, loaded.payload)
    *_, device, body, _, _, _ = event_codec.decode(record.body)
    request = parse_request(body)
    assert (device, request.id, request.method) == ("pump", call.id, "go")
    assert (bytes(request.params), request.expires_ns) == (b'{"a":1}', clock.now + 60 * SECOND)
    monkeypatch.setattr(journal_module, "RECORDS_MAX", 1)
    with pytest.raises(DownlinkFull):
        calls.send("default", "barn", new())
    assert len(calls.some("default")) == 1
    assert calls._journal.view("barn").refused == 1


def test_an_id_makes_a_call_once(calls: Calls) -> None:
    first, tail = calls.send("default", "barn", new(id="mine"))
    again, none = calls.send("default", "barn", new(id="mine"))
    assert (again, tail, none) == (first, 1, 0)
    with pytest.raises(CallRefused, match="another call's"):
        calls.send("acme", "mill", new(id="mine"))


def test_a_tenant_calls_and_sees_its_own_devices_alone(calls: Calls, registry: Registry) -> None:
    call, _ = calls.send("acme", "mill", new())
    with pytest.raises(EdgeUnknown):
        calls.send("default", "mill", new())
    with pytest.raises(EdgeUnknown):
        calls.send("acme", "nowhere", new())
    assert calls.one("default", call.id) is None
    assert calls.some("default") == []
    assert calls.one("acme", call.id) == calls.one(None, call.id) == call
    registry.edges.revoke("mill")
    with pytest.raises(EdgeUnknown):
        calls.send("acme", "mill", new())


def test_states_go_forward_however_often_and_in_which_order_they_are_told(calls: Calls) -> None:
    call, _ = calls.send("default", "barn", new())
    assert tell(calls, call, State.DELIVERED, 30).state is State.DELIVERED
    late = tell(calls, call, State.SENT, 20)
    assert (late.state, late.sent_ns, late.delivered_ns) == (State.DELIVERED, 20, 30)
    done = tell(calls, call, State.ANSWERED, 40, answer=Raw(b'"ok"'))
    assert (done.state, done.answer, done.answered_ns) == (State.ANSWERED, Raw(b'"ok"'), 40)
    assert done.is_final
    assert tell(calls, call, State.EXPIRED, 50).state is State.ANSWERED
    assert tell(calls, call, State.ANSWERED, 60, answer=Raw(b'"no"')).answer == Raw(b'"ok"')


def test_a_call_expires_by_itself_once_and_a_late_answer_is_kept(
    calls: Calls, clock: Clock
) -> None:
    call, _ = calls.send("default", "barn", new(ttl_s=10))
    clock.now += 10 * SECOND
    assert calls.expire() == []
    clock.now += SECOND
    assert calls.expire() == [call.id]
    assert calls.expire() == []
    found = tell(calls, call, State.ANSWERED, 40, answer=Raw(b"7"))
    assert (found.state, found.answer, found.is_late) == (State.EXPIRED, Raw(b"7"), True)
    assert found.reason == "its time passed"


def test_one_way_is_final_when_delivered(calls: Calls, clock: Clock) -> None:
    call, _ = calls.send("default", "barn", new(ttl_s=10, one_way=True))
    assert tell(calls, call, State.DELIVERED, 30).is_final
    clock.now += 20 * SECOND
    assert calls.expire() == []


def test_what_a_restored_edge_had_is_given_up_by_its_place(calls: Calls) -> None:
    first, _ = calls.send("default", "barn", new())
    second, _ = calls.send("default", "barn", new())
    tell(calls, first, State.ANSWERED, 3, answer=Raw(b"1"))
    calls.lost("barn", Lane.CRITICAL, 1, 2, "restored")
    states = [(one.state, one.reason) for one in calls.some("default", limit=2)]
    assert sorted(states) == [(State.ANSWERED, ""), (State.EXPIRED, "restored")]
    assert calls.one("default", second.id) is not None


async def test_calls_are_given_up_with_their_records_and_no_others(calls: Calls) -> None:
    """Until the journal gives them up, more can be sent and some can arrive."""
    arrived, _ = calls.send("default", "barn", new())
    later: list[CallView] = []

    class Busy(Delivery):
        async def clear(self, edge: str) -> list[tuple[Lane, int, int]]:
            self.journal.mark(edge, {Lane.CRITICAL: 1})
            calls.arrived(edge, Lane.CRITICAL, 1)
            later.append(calls.send("default", edge, new())[0])
            return await super().clear(edge)

    service = RpcService(calls, Busy(calls._journal), MemoryLog(), lambda _edge: "default")
    with trio.fail_after(60):
        assert await service.clear("barn") == 1
    assert [(one.id, one.state) for one in calls.some("default", state="QUEUED")] == [
        (arrived.id, State.QUEUED)
    ]
    assert [(one.id, one.reason) for one in calls.some("default", state="EXPIRED")] == [
        (later[0].id, GIVEN_UP)
    ]


async def test_the_cursor_is_stored_once_more_for_who_asks_while_it_is_stored(
    registry: Registry,
) -> None:
    """Or the log could drop nothing for another CURSOR_S."""
    hub_log, lane = MemoryLog(), Lanes(drafts(1, 2))

    class Asked(Calls):
        def take(
            self, generation: str, position: int, reports: Sequence[tuple[str, str, str, Report]]
        ) -> list[str]:
            trio.from_thread.run_sync(service.press, position + 1)
            return super().take(generation, position, reports)

    calls = Asked(registry.owned, Journal(registry.owned))
    service = RpcService(calls, Delivery(calls._journal), hub_log, lambda _edge: "default")
    epoch = (await hub_log.open_session("barn", INCARNATION, NOWHERE)).epoch
    service.press(1)
    for seq in (1, 2):
        await hub_log.append([lane.cut(seq, seq, epoch=epoch)])
        assert await service._read(seq - 1) == seq
        assert await service.cursors() == {"calls": seq}


def test_when_it_was_on_the_edges_disk_is_noted(calls: Calls, clock: Clock) -> None:
    first, _ = calls.send("default", "barn", new())
    second, _ = calls.send("default", "barn", new())
    calls.arrived("barn", Lane.NORMAL, 9)
    calls.arrived("barn", Lane.CRITICAL, 1)
    assert [calls.one(None, one.id).edge_ns for one in (first, second)] == [clock.now, None]  # type: ignore[union-attr]


def test_what_a_hub_lost_is_kept_from_what_the_edge_tells_of_it(calls: Calls) -> None:
    report = Report(id="gone", state=State.ANSWERED, at_ns=5, method="go", answer=Raw(b"1"))
    assert calls.take("g", 7, [("default", "barn", "pump", report)]) == ["gone"]
    found = calls.one("default", "gone")
    assert found is not None
    assert (found.method, found.state, found.answer) == ("go", State.ANSWERED, Raw(b"1"))
    # ... and the edge of another tells nothing of it.
    other = Report(id="gone", state=State.EXPIRED, at_ns=5)
    assert calls.take("g", 8, [("acme", "mill", "pump", other)]) == []


def test_what_is_told_by_an_edge_that_no_registry_knows_is_passed_over(calls: Calls) -> None:
    """The log may be newer than the registry: a backup of that was restored."""
    report = Report(id="gone", state=State.ANSWERED, at_ns=5, method="go", answer=Raw(b"1"))
    told = [("default", "nobody", "pump", report), ("default", "mill", "pump", report)]
    assert calls.take("g", 7, told) == []
    assert (calls.some(None), calls.position("g")) == ([], 7)
    assert calls.take("g", 8, [("acme", "mill", "pump", report)]) == ["gone"]


def test_the_place_in_the_log_is_of_a_log(calls: Calls) -> None:
    assert calls.position("g") == 0
    calls.take("g", 7, [])
    assert (calls.position("g"), calls.position("other")) == (7, 0)


def test_open_calls_of_an_edge_are_bounded_and_old_ones_go(
    calls: Calls, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "OPEN_MAX", 2)
    monkeypatch.setattr(calls_module, "KEPT_MAX", 1)
    made = []
    for _ in range(2):
        made.append(calls.send("default", "barn", new())[0])
        clock.now += 1
    with pytest.raises(CallRefused, match="2 calls of devices at barn are open"):
        calls.send("default", "barn", new())
    for one in made:
        tell(calls, one, State.ANSWERED, 5, answer=Raw(b"1"))
    left = [one.id for one in calls.some("default")]
    assert left == [made[1].id]


def test_calls_are_found_by_edge_device_and_state_page_by_page(calls: Calls, clock: Clock) -> None:
    made = []
    for _ in range(5):
        made.append(calls.send("default", "barn", new())[0].id)
        clock.now += 1
    page = calls.some("default", limit=2)
    rest = calls.some("default", before=(page[-1].created_ns, page[-1].id))
    assert [one.id for one in (*page, *rest)] == made[::-1]
    assert calls.some("default", device="fan") == calls.some("default", state="SENT") == []
    assert len(calls.some("default", edge="barn", device="pump", state="QUEUED")) == 5


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"id":"a"}', b'{"id":"","method":"m","expires_ns":1}']
)
def test_what_is_no_call_is_refused(body: bytes) -> None:
    with pytest.raises(RecordError, match="no call of a device"):
        parse_request(body)
    assert parse_report(body) is None


REPORT = b'{"id":"a","state":"ANSWERED","at_ns":1,"answer":%b}'


@pytest.mark.parametrize(
    "answer",
    [b'"\xff"', b"[" * 20_000 + b"]" * 20_000, b"[" * 65 + b"]" * 65, b"1e400", b'"\\ud800"'],
)
def test_what_nobody_can_read_tells_nothing(answer: bytes) -> None:
    """Or the hub would read it again at each start."""
    assert parse_report(REPORT % answer) is None
    body = b'{"id":"a","method":"m","expires_ns":1,"params":%b}'
    with pytest.raises(RecordError, match="no call of a device"):
        parse_request(body % answer)


def test_an_edge_that_makes_up_calls_keeps_none_of_them_open(
    calls: Calls, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "KEPT_MAX", 3)
    made = [
        Report(id=f"made{n}", state=State.SENT, at_ns=(1 << 63) - 1, error="a\0b")
        for n in range(10)
    ]
    for _ in range(2):
        calls.take("g", 1, [("default", "barn", "pump\0", one) for one in made])
        clock.now += 2 * SECOND
        calls.expire()
    calls.take("g", 1, [("default", "barn", "pump\0", made[0])])
    assert len(calls.some("default")) <= 4
    assert max(one.created_ns for one in calls.some("default")) <= clock.now


def test_an_id_is_of_one_device(calls: Calls) -> None:
    calls.send("default", "barn", new(id="mine"))
    with pytest.raises(CallRefused, match="another call's"):
        calls.send("default", "barn", msgspec.structs.replace(new(id="mine"), device="fan"))


def test_what_is_lost_begins_with_its_first_and_ends_with_its_last(calls: Calls) -> None:
    made = [calls.send("default", "barn", new())[0].id for _ in range(4)]
    calls.lost("barn", Lane.CRITICAL, 2, 3, "restored")
    states = [found.state for one in made if (found := calls.one(None, one))]
    assert states == [State.QUEUED, State.EXPIRED, State.EXPIRED, State.QUEUED]
    calls.lost("barn", Lane.NORMAL, 1, 4, "restored")
    assert len(calls.some(None, state="QUEUED")) == 2


def test_an_error_stands_and_counts_for_its_device_alone(calls: Calls) -> None:
    call, _ = calls.send("default", "barn", new())
    other = Report(id=call.id, state=State.ANSWERED, at_ns=5, error="not mine")
    assert calls.take("g", 1, [("default", "barn", "fan", other)]) == []
    assert tell(calls, call, State.ANSWERED, 6, error="stuck").error == "stuck"
    assert tell(calls, call, State.ANSWERED, 7, error="again").error == "stuck"


@pytest.mark.parametrize("by_s", [-3600, 3600])
def test_a_clock_that_is_set_moves_the_end_of_calls_with_it(
    calls: Calls, clock: Clock, by_s: int
) -> None:
    """They keep the seconds that they had left, whoever looks first."""
    one, _ = calls.send("default", "barn", new(ttl_s=60))
    done, _ = calls.send("default", "barn", new(ttl_s=5))
    clock.now += 10 * SECOND
    assert calls.expire() == [done.id]
    clock.stepped = by_s * SECOND
    two, _ = calls.send("default", "barn", new(ttl_s=60))
    assert calls.expire() == []
    now = calls.one("default", one.id)
    assert now is not None
    assert now.expires_ns == one.expires_ns + by_s * SECOND
    assert two.expires_ns == clock() + 60 * SECOND
    over = calls.one("default", done.id)
    assert over is not None
    assert over.expires_ns == done.expires_ns
    clock.now += 52 * SECOND
    assert calls.expire() == [one.id]
    clock.now += 10 * SECOND
    assert calls.expire() == [two.id]


def test_a_clock_that_is_slewed_is_followed(calls: Calls, clock: Clock) -> None:
    one, _ = calls.send("default", "barn", new(ttl_s=60))
    for _ in range(10):
        clock.stepped += SECOND // 2
        assert calls.expire() == []
    found = calls.one("default", one.id)
    assert found is not None
    assert found.expires_ns == one.expires_ns


def test_no_question_walks_the_calls_or_records_of_others(tmp_path: Path, clock: Clock) -> None:
    """Each holds the registry's one lock: what it looks at is of one edge, or of one state."""
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_connection: object, _cursor: object, sql: str, values: object, *_: object) -> None:
        if isinstance(values, tuple) and not sql.startswith("INSERT"):
            asked.append((sql, values))

    with closing(open_registry(tmp_path)) as registry:
        registry.enrolments.invite("barn", valid_s=900)
        journal = Journal(registry.owned, clock_ns=clock)
        calls = Calls(registry.owned, journal, clock_ns=clock, monotonic_ns=clock.monotonic_ns)
        call, _ = calls.send("default", "barn", new())
        sa.event.listen(registry.owned._engine, "before_cursor_execute", note)
        calls.send("default", "barn", new())
        calls.some(None, edge="barn")
        calls.arrived("barn", Lane.CRITICAL, 1)
        tell(calls, call, State.ANSWERED, 40, answer=Raw(b"1"))
        calls.lost("barn", Lane.CRITICAL, 2, 2, "restored")
        calls.expire()
        clock.now += 3600 * SECOND
        calls.expire()
        journal.view("barn")
        journal.waiting(["barn"], ("", 0, 0), 10)
        journal.give_up_before("barn", 1)
        journal.mark("barn", {Lane.CRITICAL: 1})
        journal.give_up_old(1)
        journal.clear("barn")
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        for sql, values in asked:
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            looked = [one for one in plan if re.search(r"\b(rpc|downlink_record)\b", one)]
            assert not [one for one in looked if one.startswith("SCAN")], (sql, plan)
            if "rpc.edge = ?" in sql:
                assert all("edge=?" in one for one in looked), (sql, plan)
