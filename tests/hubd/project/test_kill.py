"""A projecting process is killed at random moments; the state is right in the end."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgesync.model import EventType
from hubd.state import open_state, points, views
from hubd.state.views import EventFilter
from tests.hubd.batches import START_NS, Edge
from tests.hubd.project.follower import save

ROOT = Path(__file__).parents[3]
NAMES = [("meter", f"Register{i}") for i in range(5)]
BATCHES, POLLS = 300, 20
SECOND = 10**9


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_nothing_is_missing_or_doubled(tmp_path: Path, seed: int) -> None:
    edge = Edge("barn")
    entries = []
    for position in range(1, BATCHES + 1):
        for poll in range(POLLS):
            second = position * POLLS + poll
            edge.readings(START_NS + second * SECOND, {name: second for name in NAMES})
        edge.event(EventType.CUSTOM, str(position).encode())
        entries.append(edge.entry(position))
    save(entries, tmp_path / "log")
    rng = random.Random(seed)
    kills = 0
    while not follow_for(tmp_path, rng.randint(10, 99), rng.uniform(0.0, 0.003)):
        kills += 1
    assert kills >= BATCHES // 100 - 1
    compare(tmp_path)


def follow_for(folder: Path, positions: int, seconds: float) -> bool:
    """Let the follower come so far, and a moment further; return whether that was the end."""
    command = [sys.executable, "-m", "tests.hubd.project.follower"]
    with subprocess.Popen(
        [*command, str(folder / "log"), str(folder / "state.db")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(positions)]
        time.sleep(seconds)
        process.kill()
        return "done\n" in [*lines, *process.stdout]


def compare(folder: Path) -> None:
    state = open_state(folder / "state.db", b"g" * 16)
    wanted = list(range(POLLS, (BATCHES + 1) * POLLS))
    rows = state.read_now(lambda c: views.series_of(c, "barn", 0, 99))
    assert len(rows) == len(NAMES)
    for row in rows:
        ref = row.ref
        found = state.read_now(lambda c, ref=ref: list(points.all_points(c, ref)))  # type: ignore[misc]
        assert [point.value for point in found] == wanted
    events = state.read_now(lambda c: views.events(c, EventFilter(edge="barn"), None, 9999))
    assert [event.body for event in events][::-1] == list(range(1, BATCHES + 1))
    total = state.read_now(views.totals)["barn"]
    assert (total.readings, total.events) == (len(wanted) * len(NAMES), BATCHES)
    state.close()
