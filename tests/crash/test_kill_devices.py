"""kill -9 of a real edge and a real hub while devices publish and the hub calls and edits.

Four MQTT connections speak for five devices; the hub is asked over HTTP for calls, shared
attributes and entities, over and over until it has taken each. crew.py says what has to be so
afterwards. `make crash` kills each 200 times.
"""

import random
from collections import Counter
from pathlib import Path

import pytest

from edgesync.demo.site import open_site
from tests.crash.crew import check_all, open_crew
from tests.crash.daemons import kill_both, kills_each

KILLS_EACH = kills_each(3)


@pytest.mark.slow
@pytest.mark.feature("S2", "S11", "S15", "S17", "S24", "S29")
@pytest.mark.timeout(900 + 8 * KILLS_EACH)
async def test_what_devices_tell_and_are_told_survives_kills_of_both_sides(tmp_path: Path) -> None:
    async with open_site(tmp_path, seed=1, every="1s") as site:
        async with open_crew(site, KILLS_EACH) as crew:
            kills = await kill_both(
                site, random.Random(KILLS_EACH), KILLS_EACH, peace=2, until_busy=crew.until_busy
            )
            views = await crew.settle()
        verdict = await check_all(crew, views)
    if KILLS_EACH > 20:
        states = Counter(one["state"] for one in views.values())
        again = len(crew.told()) - len({(one.call, one.is_over) for one in crew.told()})
        print(f"{kills} kills: {crew.acknowledged} messages, calls {dict(states)}, {again} of them"
              f" came again, {crew.caller.taken} edits and calls; {verdict}")  # fmt: skip
