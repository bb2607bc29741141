"""Who sends more than it may pauses, and nobody else does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync_transport.messages import Lane
from hubd.link.lead import AHEAD_S, LEAD_MAX, LEAD_MIN, SMALL, Lead, Stream
from hubd.link.rates import Rate, Rates, RateSettings, Slowed

pytestmark = pytest.mark.feature("S4", "C14")

BURST_S = 10.0
NOISY, QUIET = ("noisy", Lane.BULK), ("quiet", Lane.BULK)
LARGEST = 5000
EDGE = RateSettings(edge=Rate(1000, 100_000), burst_s=BURST_S)
TENANT = RateSettings(tenant=Rate(1000, 0), burst_s=BURST_S)

steps = st.lists(
    st.tuples(st.floats(0, 3), st.integers(0, LARGEST), st.integers(0, 200_000)),
    min_size=1, max_size=80,
)  # fmt: skip


@given(steps, st.booleans())
def test_over_any_time_no_more_is_taken_than_the_rate_and_bursts(
    offered: list[tuple[float, int, int]], obeys: bool
) -> None:
    """Who pauses when told to is let ahead one burst; who does not, another one."""
    rates, now, until = Rates(EDGE), 100.0, 0.0
    taken: list[tuple[float, int, int]] = []
    for wait_s, readings, nbytes in offered:
        now += wait_s
        if obeys and now < until:
            continue
        if rates.refuses(rates.pause("barn", Lane.BULK, now)):
            continue
        rates.take("barn", readings, nbytes, now)
        taken.append((now, readings, nbytes))
        pause = rates.pause("barn", Lane.BULK, now)
        until = now + (pause.seconds if pause else 0.0)
    allowed_s = BURST_S if obeys else 2 * BURST_S
    for i, (since, _, _) in enumerate(taken):
        some = taken[i:]
        for what, rate, largest in ((1, 1000, LARGEST), (2, 100_000, 200_000)):
            most = rate * (some[-1][0] - since + allowed_s) + largest
            assert sum(one[what] for one in some) <= most + 1


@given(st.lists(st.tuples(st.floats(0.01, 5), st.integers(1, 10**6)), max_size=50))
def test_who_stays_within_its_rate_is_never_paused(flood: list[tuple[float, int]]) -> None:
    """Whatever another edge of the same tenant sends, as long as the tenant has no rate."""
    rates, now = Rates(EDGE), 0.0
    for wait_s, readings in flood:
        now += wait_s
        rates.take("noisy", readings, 0, now)
        rates.take("quiet", int(1000 * wait_s), int(100_000 * wait_s), now)
        for lane in Lane:
            assert rates.pause("quiet", lane, now) is None
        assert not rates.slowed("quiet", now)


def test_a_tenant_over_its_rate_slows_down_those_that_take_more_than_their_share() -> None:
    rates = Rates(TENANT, tenant_of=lambda edge: edge.split(".")[0])
    names = ["a.1", "a.2", "a.3", "a.4", "b.1"]
    for name in names:
        rates.connected(name)
    for second in range(60):
        rates.take("a.1", 10_000, 0, float(second))
        for name in names[1:]:
            rates.take(name, 200, 0, float(second))
    paused = {name: rates.pause(name, Lane.BULK, 60.0) for name in names}
    assert {name for name, pause in paused.items() if pause} == {"a.1"}
    pause = paused["a.1"]
    assert pause is not None
    assert pause.seconds > 500
    assert "`tenant_readings` under [limits]" in pause.reason
    assert [one.name for one in rates.slowed_tenants(60.0)] == ["a"]
    assert rates.slowed("a.1", 60.0) == pause.reason
    assert rates.slowed_edges(60.0) == [Slowed("a.1", pause.reason)]
    assert rates.counts() == {"a.1": 1}
    rates.disconnected("a.1")
    assert rates.slowed_edges(60.0) == []


def test_a_flood_of_readings_holds_up_no_alarm() -> None:
    rates, now = Rates(EDGE), 0.0
    rates.take("barn", 1000 * 20, 0, now)  # a burst beyond the first
    bulk = rates.pause("barn", Lane.BULK, now)
    assert bulk is not None
    assert bulk.seconds == pytest.approx(BURST_S)
    assert rates.pause("barn", Lane.NORMAL, now) is None
    assert rates.pause("barn", Lane.CRITICAL, now) is None
    rates.take("barn", 1000 * 1000, 0, now)  # but no lane is without end
    assert rates.refuses(rates.pause("barn", Lane.CRITICAL, now))


def test_a_batch_larger_than_the_rate_is_taken_and_paid_for() -> None:
    rates = Rates(RateSettings(edge=Rate(1, 0), burst_s=1.0))
    assert rates.pause("barn", Lane.BULK, 0.0) is None
    rates.take("barn", 50, 0, 0.0)
    assert rates.refuses(rates.pause("barn", Lane.BULK, 10.0))
    assert rates.pause("barn", Lane.BULK, 49.1) is None


def test_without_a_rate_there_is_no_end() -> None:
    rates = Rates(RateSettings())
    rates.take("barn", 10**12, 10**15, 0.0)
    assert rates.pause("barn", Lane.BULK, 0.0) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]), st.integers(0, 200_000), st.integers(0, 3),
            st.floats(0, 2),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_the_log_is_not_let_far_ahead_of_what_is_shown(
    offered: list[tuple[str, int, int, float]],
) -> None:
    lead, projected, now = Lead(), 0, 0.0
    ahead: list[tuple[int, Stream, int]] = []
    for position, (edge, work, moves, seconds) in enumerate(offered, 1):
        now += seconds
        stream = edge, Lane.BULK
        if lead.has_room(stream, work):
            lead.add(position, stream, work, now)
            ahead.append((position, stream, work))
        projected = min(projected + moves, position)
        lead.reached(projected, now)
        ahead = [one for one in ahead if one[0] > projected]
        assert lead.total == sum(one[2] for one in ahead)
        assert LEAD_MIN <= lead.most <= LEAD_MAX
        assert lead.total < LEAD_MAX + 200_000 + 3 * SMALL


def test_the_lead_follows_what_is_projected_in_a_quarter_of_a_second() -> None:
    lead = Lead()
    for n in range(1, 50):
        lead.add(n, NOISY, 200_000, float(n))
        lead.reached(n, n + AHEAD_S)
    assert lead.most == pytest.approx(200_000, rel=0.01)


def test_a_projection_that_is_never_done_is_measured_from_one_step_to_the_next() -> None:
    lead = Lead()
    lead.add(1, NOISY, 200_000, 0.0)
    for n in range(1, 50):
        lead.add(n + 1, NOISY, 200_000, (n - 1) * AHEAD_S)
        lead.reached(n, n * AHEAD_S)
    assert lead.most == pytest.approx(200_000, rel=0.01)


def test_little_that_is_projected_at_once_tells_nothing_of_how_fast_that_goes() -> None:
    lead = Lead()
    most = lead.most
    lead.add(1, QUIET, SMALL, 0.0)
    lead.reached(1, 1e-6)
    assert lead.most == most


def test_small_batches_pass_again_when_those_before_are_projected_or_given_up() -> None:
    lead = Lead()
    lead.add(1, QUIET, SMALL, 0.0)
    lead.add(2, NOISY, LEAD_MAX, 0.0)
    assert not lead.has_room(QUIET, 1)
    lead.reached(1, 1.0)
    assert lead.has_room(QUIET, SMALL)
    lead.add(3, QUIET, SMALL, 1.0)
    lead.give_up()
    lead.reached(3, 2.0)
    assert lead.has_room(NOISY, LEAD_MAX)
    lead.add(4, NOISY, LEAD_MAX, 2.0)
    assert lead.has_room(QUIET, SMALL)


def test_small_batches_pass_the_flood_up_to_a_bound() -> None:
    lead = Lead()
    lead.add(1, NOISY, LEAD_MAX, 0.0)
    assert not lead.has_room(NOISY, 1)
    assert not lead.has_room(QUIET, SMALL + 1)
    assert lead.has_room(QUIET, SMALL)
    assert lead.has_room(NOISY, 0)
    lead.add(2, QUIET, SMALL - 1, 0.0)
    assert lead.has_room(QUIET, 1)
    lead.add(3, QUIET, 1, 0.0)
    assert not lead.has_room(QUIET, 1)
    assert lead.has_room(("noisy", Lane.CRITICAL), 1)


def test_a_projection_that_stands_still_holds_up_nobody() -> None:
    lead = Lead()
    lead.add(1, NOISY, LEAD_MAX, 0.0)
    lead.give_up()
    assert lead.has_room(NOISY, LEAD_MAX)
    lead.add(7, NOISY, 10 * LEAD_MAX, 0.0)
    lead.reached(6, 1.0)
    assert lead.has_room(NOISY, LEAD_MAX)
    lead.reached(7, 2.0)
    lead.add(8, NOISY, LEAD_MAX, 2.0)
    assert not lead.has_room(NOISY, 1)
