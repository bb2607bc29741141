"""Levels go up at once and down slowly; actions are a set for each resource and level."""

import itertools
import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.resources.levels import CALM_S, MARGIN, Ladder, Level, Sample, Thresholds, judge
from edgesync.resources.policy import (
    AGAIN_S,
    Action,
    Again,
    Begun,
    Change,
    Ended,
    LevelChanged,
    Watch,
)

pytestmark = pytest.mark.feature("L8")

MEMORY = Thresholds(80, 90, 95)
DISK = Thresholds(70, 85, 95)
FREE = {Action.SYNC_NOW, Action.OFFLOAD, Action.COMPACT}
PACK = {Action.COMPRESS, Action.EVICT}


def of(percent: float, stall: float | None = None) -> Sample:
    return Sample(value=percent, limit=100, percent=percent, strain=percent, stall=stall)


def levels(ladder: Ladder, percents: Iterable[float], every_s: float = 2.0) -> list[Level]:
    return [ladder.step(of(one), number * every_s) for number, one in enumerate(percents)]


@pytest.mark.parametrize(
    ("thresholds", "percent", "level"),
    [
        (MEMORY, 79.9, Level.NORMAL),
        (MEMORY, 80.1, Level.WARNING),
        (MEMORY, 90.1, Level.HIGH),
        (MEMORY, 95.1, Level.CRITICAL),
        (DISK, 69.9, Level.NORMAL),
        (DISK, 70.1, Level.WARNING),
        (DISK, 85.1, Level.HIGH),
        (DISK, 95.1, Level.CRITICAL),
    ],
)
def test_thresholds_are_those_of_the_table(
    thresholds: Thresholds, percent: float, level: Level
) -> None:
    assert Ladder(thresholds, 0.0).step(of(percent), 0.0) is level


def test_up_at_once_down_one_step_every_ten_seconds_of_calm() -> None:
    ladder = Ladder(MEMORY, 0.0)
    assert levels(ladder, [50, 99]) == [Level.NORMAL, Level.CRITICAL]
    assert ladder.since == 2.0
    found = [ladder.step(of(50), 4.0 + second) for second in range(40)]
    assert found == (
        [Level.CRITICAL] * 10 + [Level.HIGH] * 10 + [Level.WARNING] * 10 + [Level.NORMAL] * 10
    )


def test_a_moment_that_is_not_calm_starts_the_ten_seconds_anew() -> None:
    ladder = Ladder(MEMORY, 0.0)
    percents = [81, *[70] * 4, 76, *[70] * 4]
    assert set(levels(ladder, percents)) == {Level.WARNING}


def test_what_is_not_known_any_more_ends_a_level_as_calm_does() -> None:
    ladder = Ladder(MEMORY, 0.0)
    ladder.step(of(99), 0.0)
    unknown = Sample(value=0, limit=0, percent=0)
    found = [ladder.step(unknown, float(second)) for second in range(1, 40)]
    assert found[0] is Level.CRITICAL
    assert found[-1] is Level.NORMAL


@pytest.mark.parametrize(
    ("percent", "stall", "level"),
    [
        (20, 5, Level.NORMAL), (20, 11, Level.WARNING), (20, 41, Level.HIGH),
        (85, 11, Level.HIGH), (91, 41, Level.CRITICAL), (99, 99, Level.CRITICAL),
    ],
)  # fmt: skip
def test_waiting_lifts_a_level_by_one_or_two(percent: float, stall: float, level: Level) -> None:
    assert judge(of(percent, stall), MEMORY) is level


@given(
    threshold=st.sampled_from([80.0, 90.0, 95.0, 70.0, 85.0]),
    amplitude=st.floats(0, 2),
    period_s=st.floats(1, 600),
    phase=st.floats(0, 2 * math.pi),
    every_s=st.floats(0.1, 10),
)
def test_swaying_by_two_points_around_a_threshold_changes_the_level_at_most_once(
    threshold: float, amplitude: float, period_s: float, phase: float, every_s: float
) -> None:
    ladder = Ladder(MEMORY if threshold in (80, 90, 95) else DISK, 0.0)
    percents = [
        threshold + amplitude * math.sin(phase + 2 * math.pi * every_s * number / period_s)
        for number in range(300)
    ]
    found = levels(ladder, percents, every_s)
    assert sum(one != other for one, other in itertools.pairwise(found)) <= 1


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 30)), max_size=60))
def test_a_level_is_never_below_what_a_sample_asks_and_sinks_by_single_steps(
    course: list[tuple[float, float]],
) -> None:
    ladder, now, before = Ladder(MEMORY, 0.0), 0.0, Level.NORMAL
    recent: list[tuple[float, float]] = []
    for percent, wait_s in course:
        now += wait_s
        level = ladder.step(of(percent), now)
        recent.append((now, percent))
        assert level >= MEMORY.rank(percent)
        assert level >= before - 1
        if level < before:
            calm = [one for at, one in recent if at >= now - CALM_S]
            assert all(MEMORY.rank(one + MARGIN) < before for one in calm)
        before = level


def actions_of(changes: list[Change], kind: type[Begun | Again | Ended]) -> set[Action]:
    return {one.action for one in changes if isinstance(one, kind)}


def test_a_short_memory_does_not_hide_a_full_disk() -> None:
    watch = Watch({"memory": MEMORY, "disk": DISK}, 0.0)
    changes = watch.step({"memory": of(82), "disk": of(96)}, 1.0)
    assert [one for one in changes if isinstance(one, LevelChanged)] == [
        LevelChanged("memory", Level.NORMAL, Level.WARNING, of(82)),
        LevelChanged("disk", Level.NORMAL, Level.CRITICAL, of(96)),
    ]
    assert actions_of(changes, Begun) == {*FREE, *PACK, Action.REFUSE_WRITES}
    assert watch.level is Level.CRITICAL
    assert watch.complaint() == "disk 96.0%"
    report = watch.report(4.0)
    assert report["memory"].actions == ("sync_now", "offload", "compact")
    assert (report["disk"].level, report["disk"].since_s) == ("critical", 3.0)


def test_actions_begin_come_again_and_end_once() -> None:
    watch = Watch({"memory": MEMORY}, 0.0)
    assert actions_of(watch.step({"memory": of(81)}, 0.0), Begun) == FREE
    assert watch.step({"memory": of(81)}, AGAIN_S - 1) == []
    again = watch.step({"memory": of(81)}, AGAIN_S)
    assert actions_of(again, Again) == FREE
    assert watch.step({"memory": of(81)}, AGAIN_S + 1) == []
    watch.step({"memory": of(10)}, 100.0)
    ended = watch.step({"memory": of(10)}, 110.0)
    assert actions_of(ended, Ended) == FREE
    assert watch.actions == frozenset()


def test_an_action_ends_when_the_last_resource_that_asked_is_well() -> None:
    watch = Watch({"memory": MEMORY, "disk": DISK}, 0.0)
    watch.step({"memory": of(96), "disk": of(96)}, 0.0)
    ended: set[Action] = set()
    for second in range(1, 100):
        ended |= actions_of(watch.step({"memory": of(1), "disk": of(96)}, float(second)), Ended)
    assert ended == set()
    for second in range(100, 200):
        changes = watch.step({"memory": of(1), "disk": of(1)}, float(second))
        ended |= actions_of(changes, Ended)
    assert ended == {*FREE, *PACK, Action.REFUSE_WRITES}


def test_values_go_to_the_hub_for_a_full_disk_and_not_for_a_short_memory() -> None:
    """They lie in a map whose pages the kernel takes back by itself."""
    watch = Watch({"memory": MEMORY, "disk": DISK}, 0.0)
    watch.step({"memory": of(99), "disk": of(84)}, 0.0)
    assert Action.EVICT not in watch.actions
    watch.step({"memory": of(99), "disk": of(86)}, 1.0)
    assert Action.EVICT in watch.actions
    assert actions_of(watch.step({"disk": of(86)}, 1.0 + AGAIN_S), Again) == {*FREE, Action.EVICT}


def test_what_nobody_can_carry_out_is_not_spoken_of() -> None:
    watch = Watch({"memory": MEMORY}, 0.0, frozenset({Action.COMPACT}))
    changes = watch.step({"memory": of(99)}, 0.0)
    assert actions_of(changes, Begun) == {Action.COMPACT}
    assert watch.report(0.0)["memory"].actions == ("compact",)
    assert watch.complaint() == ""
