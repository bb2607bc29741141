"""kill -9 of an appending process at random instants: nothing acknowledged is missing (F1)."""

import random
import time
from pathlib import Path

import pytest

from tests.crash.survivors import Victim, check

KILLS = 100


@pytest.mark.slow
@pytest.mark.feature("S2")
def test_nothing_acknowledged_is_lost_by_a_hundred_kills(tmp_path: Path) -> None:
    chance = random.Random(1)
    store = tmp_path / "store"
    tail = 0
    for _ in range(KILLS):
        victim = Victim(store, tmp_path / "report", sync="always")
        if chance.random() < 0.9:
            victim.wait_for_commits(1)
        time.sleep(chance.uniform(0, 0.05))
        victim.kill()
        if not store.exists():
            continue
        # What was acknowledged is there; at most one commit more, whose answer was on its way.
        acknowledged = max(victim.acknowledged(), tail)
        tail = check(store)
        assert acknowledged <= tail <= acknowledged + acknowledged % 40 + 1
    assert tail > KILLS
