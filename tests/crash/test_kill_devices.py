"""kill -9 of a real edge and a real hub while devices publish and the hub calls and edits.

Four MQTT connections speak for five devices; the hub is asked over HTTP for calls, shared
attributes and entities, over and over until it has taken each. crew.py says what has to be so
afterwards. `make crash` kills each 200 times.
"""

import random
from collections import Counter
from pathlib import Path

import pytest
import trio

from edgesync.demo.site import EDGE, open_site
from tests.crash.caller import post
from tests.crash.crew import check_all, open_crew, open_doors, until
from tests.crash.daemons import kill_both, kills_each
from tests.crash.devices import Device

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


@pytest.mark.slow
@pytest.mark.feature("S24")
async def test_a_call_that_the_hub_has_taken_outlives_its_kill(tmp_path: Path) -> None:
    """Under its id, with the time that it had left; its device, which slept, is called once."""
    async with open_site(tmp_path, seed=1, every="1s") as site:
        port, _ = await open_doors(site)
        taken = []
        for nth in range(2):
            asked = {"device": "Scale", "method": "do", "params": f"call{nth}", "ttl_s": 3600}
            url = f"{site.url}/api/v1/edges/{EDGE}/rpc"
            taken.append(await trio.to_thread.run_sync(post, url, asked))
            await site.kill("hub")
            await site.start_hub()
        for one in taken:
            found = site.get(f"/api/v1/rpc/{one['id']}")
            assert {**found, "edge_ns": None} == one
            assert (found["state"], found["expires_ns"] - found["created_ns"]) == (
                "QUEUED", 3600 * 10**9,
            )  # fmt: skip
        device = Device(port, 0, "Scale", user="SCALE_TOKEN", client_id="scale")
        try:
            ids = [one["id"] for one in taken]
            await until(lambda: all(site.get(f"/api/v1/rpc/{id}")["is_final"] for id in ids))
        finally:
            device.end()
        assert [one.call for one in device.told if not one.is_over] == ["call0", "call1"]
        assert [site.get(f"/api/v1/rpc/{id}")["answer"] for id in ids] == [
            {"did": f"call{nth}"} for nth in range(2)
        ]
