"""The simulated site obeys physics, and the same seed gives the same day."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.sources.simulate.devices import SHOW
from edgesync.sources.simulate.serve import make_site
from edgesync.sources.simulate.site import (
    BATTERY_MOST_W,
    CAPACITY_WH,
    EFFICIENCY,
    PV_PEAK_W,
    SOC_HIGH,
    SOC_LOW,
    Site,
)

HOUR_S = 3600.0


def day(seed: int, step_s: float = 5.0, start_h: float = 0.0) -> Site:
    """Return the site after a day, having checked every step of it."""
    site = Site(random.Random(seed), start_h=start_h)
    for _ in range(int(24 * HOUR_S / step_s)):
        site.step(step_s)
        assert site.load_w == pytest.approx(site.pv_w + site.battery_w + site.grid_w)
        assert SOC_LOW - 1e-9 <= site.soc <= SOC_HIGH + 1e-9
        assert abs(site.battery_w) <= BATTERY_MOST_W + 1e-6
        assert 0 <= site.pv_w <= PV_PEAK_W
        assert site.pv_w == 0 or site.is_day
        assert site.load_w > 0
    return site


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_day_balances_at_every_instant_and_in_its_counters(seed: int) -> None:
    site = day(seed)
    stored = (site.soc - 0.5) * CAPACITY_WH
    assert stored == pytest.approx(
        site.charged_wh * EFFICIENCY - site.discharged_wh / EFFICIENCY, rel=1e-6, abs=1e-3
    )
    bought = site.imported_wh - site.exported_wh
    given_by_battery = site.discharged_wh - site.charged_wh
    assert site.consumed_wh == pytest.approx(bought + site.produced_wh + given_by_battery, rel=1e-6)
    # A sunny day of a 12 kWp plant and an ordinary household.
    assert 30_000 < site.produced_wh < 95_000
    assert 20_000 < site.consumed_wh < 70_000


def test_the_battery_charges_by_day_and_discharges_in_the_evening() -> None:
    site = Site(random.Random(1), start_h=9.0)
    site.step(4 * HOUR_S)
    assert site.charged_wh > 3_000
    assert site.soc > 0.6
    before_wh = site.discharged_wh
    site.step(9 * HOUR_S)
    assert site.discharged_wh > before_wh + 3_000


def test_clouds_move_the_power_within_minutes() -> None:
    site = Site(random.Random(3), start_h=12.0)
    seen = []
    for _ in range(600):
        site.step(1.0)
        seen.append(site.pv_w)
    assert max(seen) - min(seen) > 500


@pytest.mark.slow
@given(st.integers(0, 2**32))
@settings(max_examples=10)
def test_the_same_seed_gives_the_same_site(seed: int) -> None:
    one, two = make_site(seed), make_site(seed)
    for _ in range(50):
        one.site.step(1.0)
        two.site.step(1.0)
    for show in SHOW.values():
        assert show(one.site) == show(two.site)


@pytest.mark.slow
@pytest.mark.parametrize("hour", [0.0, 6.1, 12.0, 19.0, 21.0])
def test_every_device_can_show_every_hour(hour: float) -> None:
    simulated = make_site(7, start_h=hour)
    simulated.site.step(HOUR_S)
    simulated.show()
    for unit_id, show in SHOW.items():
        names = {p.name for p in simulated.server.devices[unit_id].layout.points}
        assert set(show(simulated.site)) == names, "a point nobody fills shows zero for ever"
