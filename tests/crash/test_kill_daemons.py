"""kill -9 of a real edge and a real hub at random instants: every row is where it belongs (F1, F2).

Both are killed while they start, while they work and while they recover. The devices are polled
ten times a second over real Modbus TCP, and the ledger compares what the edge acknowledged with
its journal, the hub's log and the hub's state, row by row. `make crash` kills each 200 times.
"""

import random
from pathlib import Path

import pytest

from edgesync.demo.run import Demo
from edgesync.demo.site import open_site
from tests.crash.daemons import kill_both, kills_each, unseen

KILLS_EACH = kills_each(4)


@pytest.mark.slow
@pytest.mark.feature("S2", "S17")
@pytest.mark.timeout(600 + 6 * KILLS_EACH)
async def test_every_row_survives_kills_of_both_sides(tmp_path: Path) -> None:
    async with open_site(tmp_path, seed=1, every="100ms") as site:
        kills = await kill_both(site, random.Random(KILLS_EACH), KILLS_EACH)
        verdict = await Demo(site, unseen).compare(seed=1, seconds=0)
    assert verdict.findings == []
    assert verdict.witnessed > kills
    assert verdict.state_readings == verdict.journal_readings >= verdict.witnessed
    if KILLS_EACH > 20:
        print(f"{KILLS_EACH} kills each: {verdict}")
