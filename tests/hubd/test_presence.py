"""What the hub knows of each edge now, from a real link."""

from pathlib import Path

import pytest

from edgesync.bounds import FLAPPING_SESSIONS
from edgesync_transport.messages import Ack, Refused, Welcome
from edgesync_transport.seldom import Seldom
from hubd.presence import EVENTS_BURST, EVENTS_MAX, Presence
from tests.hubd.links import Site, open_site
from tests.hubd.log.test_contract import Lanes, drafts

FLAPPING_AT = FLAPPING_SESSIONS + 1


def kinds(site: Site, edge: str | None = None) -> list[str]:
    return [e.kind for e in site.presence.link_events(edge=edge, before=None, limit=100)]


async def test_an_edge_that_has_not_come_yet_is_listed(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        assert [view.edge for view in site.presence.edges()] == ["barn", "shed"]
        view = site.presence.edge("barn")
        assert view is not None
        assert not view.is_connected
        assert view.seen_at_ns is None
        assert site.presence.edge("nobody") is None


async def test_lag_falls_as_batches_are_stored(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        edge, lane = site.edge(), Lanes(drafts(1, 9))
        await edge.greet(tail=9)
        view = site.presence.edge("barn")
        assert view is not None
        assert view.is_connected
        assert (view.state, view.lag_records) == ("processing", 9)
        assert view.software == "by hand"
        assert view.address == "barn.example"
        assert view.epoch == edge.epoch
        assert view.seen_at_ns is not None
        await edge.send(lane, 1, 6)
        assert isinstance(await edge.answer(), Ack)
        view = site.presence.edge("barn")
        assert view is not None
        assert (view.lag_records, view.lanes[2].floor, view.lanes[2].tail) == (3, 6, 9)
        await edge.send(lane, 7, 9)
        assert isinstance(await edge.answer(), Ack)
        view = site.presence.edge("barn")
        assert view is not None
        assert (view.state, view.lag_records, view.lag_s) == ("connected", 0, 0.0)
        assert site.presence.log_head == 2


async def test_the_age_of_a_lag_counts_from_when_it_began(tmp_path: Path) -> None:
    now_ns = [1_767_225_600 * 10**9]
    async with open_site(tmp_path) as site:
        presence = Presence(site.log, clock_ns=lambda: now_ns[0])
        for lag, lag_s in ((3, 0.0), (5, 10.0), (1, 20.0), (0, 0.0), (2, 0.0), (2, 10.0)):
            assert presence._lag_s("barn", lag) == lag_s
            now_ns[0] += 10 * 10**9


async def test_a_backlog_is_called_draining(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        await site.edge().greet(tail=5000)
        view = site.presence.edge("barn")
        assert view is not None
        assert (view.state, view.lag_records) == ("draining", 5000)


@pytest.mark.parametrize(("tail", "state"), [(1000, "processing"), (1001, "draining")])
async def test_more_than_a_thousand_records_are_a_backlog(
    tmp_path: Path, tail: int, state: str
) -> None:
    async with open_site(tmp_path) as site:
        await site.edge().greet(tail=tail)
        view = site.presence.edge("barn")
        assert view is not None
        assert view.state == state


@pytest.mark.feature("S26")
async def test_a_link_that_comes_again_and_again_is_shown_as_flapping(tmp_path: Path) -> None:
    async with open_site(tmp_path, takeovers_max=100) as site:
        edge = site.edge()
        assert isinstance(await edge.greet(), Welcome)
        for nth in range(2, FLAPPING_AT + 1):
            assert "flapping" not in kinds(site)
            assert isinstance(await edge.greet(again=True), Welcome), nth
        assert kinds(site, "barn").count("flapping") == 1
        assert kinds(site, "shed") == []
        # It is said once for so many sessions, not once for each.
        for _ in range(FLAPPING_AT - 1):
            await edge.greet(again=True)
        assert kinds(site).count("flapping") == 1
        await edge.greet(again=True)
        assert kinds(site).count("flapping") == 2


@pytest.mark.feature("S26")
@pytest.mark.parametrize("every_s", [10.0, 40.0, 60.0])
async def test_a_line_that_holds_for_a_while_and_is_gone_again_is_flapping(
    tmp_path: Path, every_s: float
) -> None:
    async with open_site(tmp_path) as site:
        presence = Presence(site.log)
    for nth in range(3 * FLAPPING_AT):
        presence.note("barn", "connected", {}, nth * every_s)
    found = [e for e in presence.link_events(edge="barn", before=None, limit=99)]
    flapping = [e.detail for e in found if e.kind == "flapping"]
    assert flapping == [f"{FLAPPING_AT} sessions in {(FLAPPING_AT - 1) * every_s:.0f} s"] * 3


@pytest.mark.feature("S26")
async def test_sessions_far_apart_are_no_flapping(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        presence = Presence(site.log)
    for nth in range(20):
        presence.note("barn", "connected", {}, nth * 110.0)
    assert [e.kind for e in presence.link_events(edge=None, before=None, limit=99)] == (
        ["connected"] * 20
    )


@pytest.mark.feature("S26")
async def test_one_gateway_on_a_bad_line_is_not_taken_for_two(tmp_path: Path) -> None:
    """The same store greets again: nobody else has its key."""
    async with open_site(tmp_path, takeovers_max=2) as site:
        edge = site.edge()
        for _ in range(8):
            assert isinstance(await edge.greet(again=True), Welcome)


@pytest.mark.feature("S32")
async def test_two_gateways_with_one_key_are_held_off(tmp_path: Path) -> None:
    async with open_site(tmp_path, takeovers_max=2) as site:
        one, other = site.edge(), site.edge()
        answers = []
        for _ in range(4):
            answers += [await one.greet(again=True), await other.greet(again=True)]
        assert any(isinstance(answer, Refused) for answer in answers)
        assert site.presence.cloned() == ["barn"]
        assert [view.has_clone for view in site.presence.edges()] == [True, False]


async def test_an_edge_that_greets_without_end_pushes_out_no_others_events(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        presence, now = Presence(site.log), 0.0
    presence._seldom = Seldom(60.0, lambda: now, burst=EVENTS_BURST)
    presence.note("shed", "lost", {"silent_s": 15}, 0.0)
    told = [presence.note("barn", "superseded", {"epoch": n}, 0.0) for n in range(EVENTS_MAX)]
    assert sum(one is not None for one in told) == EVENTS_BURST
    assert len(presence.link_events(edge="shed", before=None, limit=9)) == 1
    now = 60.0
    left_out = EVENTS_MAX - EVENTS_BURST
    assert presence.note("barn", "superseded", {"epoch": 1}, now) == {
        "epoch": 1, "left_out": left_out,
    }  # fmt: skip
    (newest,) = presence.link_events(edge="barn", before=None, limit=1)
    assert newest.detail == f"epoch 1, {left_out} left out"


async def test_events_of_links_are_bounded_and_paged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubd.presence.EVENTS_BURST", EVENTS_MAX)
    async with open_site(tmp_path) as site:
        presence = Presence(site.log)
    for n in range(EVENTS_MAX + 5):
        presence.note(f"edge{n % 2}", "lost", {"after": n}, float(n))
    newest = presence.link_events(edge=None, before=None, limit=3)
    assert [e.n for e in newest] == [EVENTS_MAX + 5, EVENTS_MAX + 4, EVENTS_MAX + 3]
    before = presence.link_events(edge="edge1", before=newest[-1].n, limit=2)
    assert [e.n for e in before] == [EVENTS_MAX + 2, EVENTS_MAX]
    assert newest[0].detail == f"after {EVENTS_MAX + 4}"
    assert len(presence.link_events(edge=None, before=None, limit=1 << 20)) == EVENTS_MAX
