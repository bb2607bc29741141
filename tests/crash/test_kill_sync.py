"""kill -9 of edge and hub at each stage of a full sync: it goes on by itself, and ends.

Both programs are those that a user runs. The line between them stands still after so many bytes, so
it is known how far the sync is when one of them is killed.
"""

import base64
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
import trio

from edgesync.demo.cable import CableState
from edgesync.demo.site import EDGE, Site, free_ports, open_site

pytestmark = [pytest.mark.slow, pytest.mark.feature("S2", "S21", "L5")]

PATIENCE_S = 300
KEYS, A_WRITE = 6000, 500
VALUE_BYTES = 100
# A page or two. What was on its way comes again after a kill; all stages are less than the sync.
STAGE_BYTES = 90_000
VICTIMS = ("edge", "hub", "edge", "hub", "edge", "hub")


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await trio.to_thread.run_sync(is_so):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def fill(site: Site) -> dict[str, str]:
    """Give the hub keys that no compression makes small, and devices with attributes."""
    chance = random.Random(4)
    keys = {
        f"key{number}": base64.b64encode(chance.randbytes(VALUE_BYTES)).decode()
        for number in range(KEYS)
    }
    words = [word for pair in keys.items() for word in pair]
    async with httpx2.AsyncClient(base_url=f"{site.url}/api/v1", timeout=60) as client:
        for at in range(0, len(words), 2 * A_WRITE):
            command = {"command": ["MSET", *words[at : at + 2 * A_WRITE]]}
            answer = await client.post("/keys/command", json=command)
            assert answer.status_code == 200, answer.text
        for number in range(20):
            wanted = {"entity": f"Scale {number}", "scope": "shared", "set": {"limit": number}}
            answer = await client.post(f"/edges/{EDGE}/attributes", json=wanted)
            assert answer.status_code == 200, answer.text
    return keys


def told(site: Site) -> Any:
    """Return what the edge says of its keys; None while it does not answer."""
    status = site.edge_status()
    return None if status is None else status["keys"]


@pytest.mark.timeout(2 * PATIENCE_S)
async def test_a_full_sync_ends_whoever_is_killed_at_whichever_stage(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with open_site(tmp_path, seed=1, every="1s") as site:
        cable = site.cable
        wanted = await fill(site)
        await site.kill("edge")
        with (site.edge_folder / "edge.toml").open("a") as settings:
            settings.write(f"\n[cells]\nport = {port}\n")
        had = []
        cable.hush()
        await site.start_edge()
        for victim in VICTIMS:
            cable.plug(STAGE_BYTES)
            await until(lambda: cable.state is CableState.HUSHED)
            keys = told(site)
            assert keys is not None
            had.append(keys["keys"])
            assert not keys["synced_ns"], "it is not over"
            await site.kill(victim)
            start = site.start_edge if victim == "edge" else site.start_hub
            await start()
        cable.plug()
        await until(lambda: told(site)["state"] == "idle")
        with redis.Redis(port=port, decode_responses=True) as client:
            names = list(wanted)
            assert client.mget(names) == [wanted[name] for name in names]
            limits = [client.hget(f"@/shared/{EDGE}/device/Scale {n}", "limit") for n in range(20)]
            assert limits == [str(number) for number in range(20)]
        # What was there at a stage was not asked for again after the kill.
        assert had == sorted(had)
        assert 0 < had[-1] < KEYS
