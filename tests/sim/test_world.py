"""Worlds from seeds: whatever happens, nothing is lost, doubled or inverted, and all of it arrives.

`make long` runs 500; a failing seed replays with `make sim SEED=n`.
"""

from random import Random

import msgspec
import pytest

from edgesync_transport.memory import Weather as LinkWeather
from tests.sim.mutants import DOWNLINK_MUTANTS, MUTANTS
from tests.sim.world import Rules, Weather, World, weather_of

pytestmark = pytest.mark.feature("S1", "S3", "S4", "S8", "S14", "S25", "S26", "S32")


@pytest.mark.parametrize("decade", range(12))
def test_every_record_arrives_once_and_in_order(decade: int) -> None:
    for seed in range(10 * decade, 10 * decade + 10):
        World(seed).run()


def test_a_hub_that_slows_its_edges_down_loses_nothing_of_theirs() -> None:
    """Every tenth batch is answered with a pause or refused for a while, in any weather."""
    for seed in range(20):
        weather = msgspec.structs.replace(weather_of(Random(seed)), slow=0.1)
        World(seed, weather=weather).run()


@pytest.mark.parametrize("seed", [3, 17, 42])
def test_a_seed_replays_identically(seed: int) -> None:
    assert World(seed).run() == World(seed).run()


def test_the_trace_tells_worlds_apart() -> None:
    assert World(1).run() != World(2).run()


WILD = Weather(
    link=LinkWeather(loss=0.1, double=0.3, delay_s=0.3),
    partition_every_s=4.0,
    edge_crash_every_s=5.0,
    hub_crash_every_s=4.0,
    edge_restore_every_s=4.0,
    hub_restore_every_s=6.0,
    backup_every_s=2.0,
    clone_at_s=6.0,
    poison=0.0,
)


def survives(rules: Rules, seed: int, *, downlink: bool = True) -> bool:
    try:
        World(seed, weather=WILD if seed % 2 else None, rules=rules, downlink=downlink).run()
    except (AssertionError, ValueError):
        return False
    return True


# Seeds that found a mutant when last tried, so that most need one world each.
FINDERS = (0, 1, 13, 66, 91, 175, 260, 381, 5528)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_protocol_without_one_of_its_rules_is_found_out(name: str) -> None:
    seeds, mutant = (*FINDERS, *range(600)), MUTANTS[name]
    downlink = name in DOWNLINK_MUTANTS
    assert not all(survives(mutant, seed, downlink=downlink) for seed in seeds), f"{name} lives"


def test_the_whole_protocol_survives_the_same_weather() -> None:
    assert all(survives(Rules(), seed) for seed in range(60))
