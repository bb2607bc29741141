"""At the link: who sends more than it may waits, alone, and so does who outruns the projection."""

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edgesync_transport.messages import Ack, Bye, Lane, Nack, NackCode
from hubd.link import lead, sessions
from hubd.link.lead import Lead
from hubd.link.rates import Rate, Rates, RateSettings, Slowed
from hubd.project.base import Progress
from tests.hubd.links import open_site
from tests.hubd.log.test_contract import Lanes, drafts

pytestmark = pytest.mark.feature("S4", "C14")

# So little a second that nothing comes back while a test lasts.
SLOW = RateSettings(edge=Rate(readings=1e-3), burst_s=10_000.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 30 readings pass of whoever outruns the projection, and no more."""
    monkeypatch.setattr(lead, "SMALL", 30)


async def test_over_its_rate_an_edge_is_told_to_pause_and_then_refused(tmp_path: Path) -> None:
    """A burst of ten readings; ten more in debt are still stored: they are under way."""
    async with open_site(tmp_path, rates=Rates(SLOW)) as site:
        barn, lane = site.edge(), Lanes(drafts(1, 40))
        await barn.greet(tail=40)
        for first, last, is_told in ((1, 9, False), (10, 15, True), (16, 20, True), (21, 21, True)):
            await barn.send(lane, first, last)
            answer = await barn.answer()
            assert isinstance(answer, Ack), answer
            assert answer.floor == last
            assert ("slow down" in answer.reason, answer.pause_s > 0) == (is_told, is_told)
        await barn.send(lane, 22, 22)
        refusal = await barn.answer()
        assert isinstance(refusal, Nack)
        assert (refusal.code, refusal.floor) == (NackCode.BUSY, 21)
        assert refusal.retry_after_s > SLOW.burst_s
        assert "`edge_readings` under [limits]" in refusal.reason
        # An alarm is not behind the readings, and another edge is not behind this one.
        critical = Lanes(drafts(1, 3), Lane.CRITICAL)
        await barn.send(critical, 1, 3)
        assert isinstance(await barn.answer(), Ack)
        shed = site.edge("shed")
        await shed.greet(tail=9)
        await shed.send(lane, 1, 9)
        answer = await shed.answer()
        assert isinstance(answer, Ack)
        assert not answer.pause_s
        slowed = {view.edge: view.slowed for view in site.presence.edges()}
        assert slowed == {"barn": refusal.reason, "shed": ""}
        assert site.presence.slowed().edges == [Slowed("barn", refusal.reason)]


async def test_a_tenants_rate_is_shared_by_those_who_have_a_session(tmp_path: Path) -> None:
    rates = Rates(SLOW, tenant_of=lambda _edge: "t")
    async with open_site(tmp_path, rates=rates) as site:
        barn, shed = site.edge(), site.edge("shed")
        for edge in (barn, shed):
            await edge.greet()
        assert rates.edges == {"t": 2}
        await barn.greet(again=True)
        assert rates.edges == {"t": 2}
        await barn.link.send(Bye(epoch=barn.epoch, reason="done"))
        await wait_all_tasks_blocked()
        assert rates.edges == {"t": 1}
        await site.link.revoke("shed")
        assert not +rates.edges


async def test_what_is_refused_for_now_is_not_unpacked(tmp_path: Path) -> None:
    """Who does not pause costs the hub no work: not even what is wrong with it is looked for."""
    async with open_site(tmp_path, rates=Rates(SLOW)) as site:
        barn, lane = site.edge(), Lanes(drafts(1, 60))
        await barn.greet(tail=60)
        await barn.send(lane, 1, 30)
        assert isinstance(await barn.answer(), Ack)
        await barn.send(lane, 31, 60, payload=b"\xff" * 9000)
        refusal = await barn.answer()
        assert isinstance(refusal, Nack)
        assert refusal.code is NackCode.BUSY


async def test_what_cannot_be_used_counts_by_its_bytes(tmp_path: Path) -> None:
    rates = Rates(RateSettings(edge=Rate(nbytes=1e-3), burst_s=10_000.0))
    async with open_site(tmp_path, rates=rates) as site:
        barn, lane = site.edge(), Lanes(drafts(1, 9))
        await barn.greet(tail=9)
        await barn.send(lane, 1, 5, payload=b"\0" * 100)
        refusal = await barn.answer()
        assert isinstance(refusal, Nack)
        assert refusal.code is NackCode.POISON
        await barn.send(lane, 1, 5)
        refusal = await barn.answer()
        assert isinstance(refusal, Nack)
        assert (refusal.code, "edge_bytes" in refusal.reason) == (NackCode.BUSY, True)


@pytest.mark.feature("S5")
@pytest.mark.usefixtures("small")
async def test_who_outruns_the_projection_waits_and_others_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PROJECTION_WAIT_S", 1e6)
    telemetry = Progress("telemetry")
    async with open_site(tmp_path, projection=telemetry) as site:
        site.link._lead = Lead(20)
        barn, shed, lane = site.edge(), site.edge("shed"), Lanes(drafts(1, 60))
        await barn.greet(tail=60)
        await shed.greet(tail=60)
        await barn.send(lane, 1, 30)
        assert isinstance(await barn.answer(), Ack)
        await barn.send(lane, 31, 60)
        await shed.send(lane, 1, 5)
        answer = await shed.answer()
        assert isinstance(answer, Ack)
        assert site.log.head == 2  # of each edge a batch: barn's second one waits
        telemetry.position = 1
        telemetry.note()
        answer = await barn.answer()
        assert isinstance(answer, Ack)
        assert answer.floor == 60


@pytest.mark.feature("S1", "S5")
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("flooded", "other"), [(Lane.BULK, Lane.CRITICAL), (Lane.NORMAL, Lane.BULK)]
)
async def test_a_lane_that_waits_holds_up_no_other_of_its_edge(
    flooded: Lane, other: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PROJECTION_WAIT_S", 1e6)
    async with open_site(tmp_path, projection=Progress("telemetry")) as site:
        site.link._lead = Lead(20)
        barn, flood, few = site.edge(), Lanes(drafts(1, 60), flooded), Lanes(drafts(61, 63), other)
        await barn.greet(tail=60)
        await barn.send(flood, 1, 30)
        assert isinstance(await barn.answer(), Ack)
        await barn.send(flood, 31, 60)
        for n in range(1, 4):
            await barn.send(few, n, n)
            answer = await barn.answer()
            assert isinstance(answer, Ack)
            assert (answer.lane, answer.floor) == (other, n)
        assert site.log.head == 4


@pytest.mark.feature("S5")
@pytest.mark.usefixtures("small")
async def test_a_projection_that_stands_still_holds_up_no_ack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PROJECTION_WAIT_S", 0.01)
    async with open_site(tmp_path, projection=Progress("telemetry")) as site:
        site.link._lead = Lead(20)
        barn, lane = site.edge(), Lanes(drafts(1, 90))
        await barn.greet(tail=90)
        for first in (1, 31, 61):
            await barn.send(lane, first, first + 29)
            answer = await barn.answer()
            assert isinstance(answer, Ack)
        assert site.log.head == 3


@pytest.mark.feature("S5")
@pytest.mark.usefixtures("small")
async def test_a_projection_that_begins_anew_holds_up_no_ack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves all the time, and is far from what comes in now."""
    monkeypatch.setattr(sessions, "PROJECTION_WAIT_S", 0.05)
    telemetry = Progress("telemetry")
    telemetry.position = -1_000_000

    async def replay() -> None:
        while True:
            await trio.sleep(0.01)
            telemetry.position += 1
            telemetry.note()

    async with open_site(tmp_path, projection=telemetry) as site, trio.open_nursery() as nursery:
        nursery.start_soon(replay)
        site.link._lead = Lead(20)
        barn, lane = site.edge(), Lanes(drafts(1, 120))
        await barn.greet(tail=120)
        for first in (1, 31, 61, 91):
            await barn.send(lane, first, first + 29)
            answer = await barn.answer()
            assert isinstance(answer, Ack)
        assert not site.link._lead.total  # given up once, and nobody has waited since
        nursery.cancel_scope.cancel()
