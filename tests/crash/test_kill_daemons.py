"""kill -9 of a real edge and a real hub at random instants: every row is where it belongs (F1, F2).

Both are killed while they start, while they work and while they recover. The devices are polled
ten times a second over real Modbus TCP, and the ledger compares what the edge acknowledged with
its journal, the hub's log and the hub's state, row by row. `make crash` kills each 120 times.
"""

import os
import random
from pathlib import Path

import pytest
import trio

from edgesync.demo.run import Demo, Line
from edgesync.demo.site import open_site

KILLS_EACH = int(os.environ.get("EDGESYNC_KILLS", "4"))
# How long one lives before it is killed: half of them die before they are ready.
LIFE_S = (0.0, 1.2)


def unseen(line: Line) -> None:
    """Nobody looks at the terminal of this demo."""


@pytest.mark.slow
@pytest.mark.feature("S2", "S17")
@pytest.mark.timeout(600 + 6 * KILLS_EACH)
async def test_every_row_survives_kills_of_both_sides(tmp_path: Path) -> None:
    chance = random.Random(KILLS_EACH)
    async with open_site(tmp_path, seed=1, every="100ms") as site:
        victims = ["edge", "hub"] * KILLS_EACH
        chance.shuffle(victims)
        for number, victim in enumerate(victims):
            await trio.sleep(chance.uniform(*LIFE_S))
            await site.kill(victim)
            start = site.start_edge if victim == "edge" else site.start_hub
            # Now and then the site has a moment of peace, or nothing would ever be delivered.
            await start(until_ready=number % 4 == 3)
        verdict = await Demo(site, unseen).compare(seed=1, seconds=0)
    assert verdict.findings == []
    assert verdict.witnessed > len(victims)
    assert verdict.state_readings == verdict.journal_readings >= verdict.witnessed
    if KILLS_EACH > 20:
        print(f"{KILLS_EACH} kills each: {verdict}")
