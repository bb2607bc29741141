"""Devices and a caller at work at a real edge and a real hub, and what has to be so afterwards.

- A reading that was acknowledged is in the journal, the log and the state: once if it was sent
once, and no more often than it was sent; first arrivals are in the order of publishing.
- Calls came to a device in the order in which the hub took them, each under one number, again only
on another connection and not after a later call; where nothing is acknowledged, not again.
- Each call is over in one way: answered as the device did, delivered, or expired.
- Devices were told of all attributes, and every key is the same at edge and hub.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import redis
import trio

from edgesync.demo.ledger import Point
from edgesync.demo.run import Demo, Verdict
from edgesync.demo.site import EDGE, Site, free_ports
from edgesync.model import series_id
from tests.crash.caller import ABSENT, UNSURE, Caller, Keys, Made
from tests.crash.daemons import unseen
from tests.crash.devices import CREDENTIALS, Device, Told, site_devices

PATIENCE_S = 300
LEAVING_NS = 5 * 10**9
AT_LEAST = 40

Views = dict[str, Any]


class Crew:
    """Devices, and who works at the hub; `redis_port` shows the keys of the edge."""

    def __init__(self, site: Site, devices: list[Device], redis_port: int, seed: int) -> None:
        self.site = site
        self.devices = devices
        self.caller = Caller(site, [name for one in devices for name in one.names], seed)
        self._redis_port = redis_port

    @property
    def acknowledged(self) -> int:
        return sum(len(one.sendings) for one in self.devices)

    async def until_busy(self) -> None:
        """Wait until devices publish and the hub takes what it is asked for."""
        at = self.acknowledged, self.caller.taken
        await until(lambda: self.acknowledged > at[0] and self.caller.taken > at[1])

    async def settle(self) -> Views:
        """Stop working; wait until all that was begun is over, and everybody knows.

        Returns what the hub says of each call.
        """
        await until(lambda: self.caller.taken > AT_LEAST and self.acknowledged > AT_LEAST)
        self.caller.is_over = True
        for one in self.devices:
            one.publishes = False
        await until(lambda: all(one.is_idle for one in self.devices))
        assert [one.problem for one in self.devices if one.problem] == []
        views = await final_views(self)
        await until(self.is_told)
        await until(self.has_same_keys)
        check_keys(self)
        return views

    def keys(self) -> Keys:
        """Return the edge's keys of entities; raises OSError."""
        with redis.Redis(port=self._redis_port, decode_responses=True) as client:
            return {key: client.hgetall(key) for key in client.keys("@/*")}

    def has_same_keys(self) -> bool:
        return self.keys() == self.caller.keys()

    def is_told(self) -> bool:
        """Whether devices know all of their shared attributes."""
        told = {name: held for one in self.devices for name, held in one.shared.items()}
        return told == self.caller.shared

    def view(self, call: str) -> Any:
        """Return what the hub says of a call; None when it does not answer."""
        return self.site.get(f"/api/v1/rpc/{call}")

    def told(self) -> list[Told]:
        return [one for device in self.devices for one in device.told]


async def open_doors(site: Site) -> tuple[int, int]:
    """Give the edge doors for devices and for Redis; returns their ports."""
    mqtt_port, redis_port = free_ports(2)
    await site.kill("edge")
    credentials = site.edge_folder / "mqtt-devices.toml"
    credentials.write_text(CREDENTIALS)
    credentials.chmod(0o600)
    with (site.edge_folder / "edge.toml").open("a") as settings:
        settings.write(f"\n[mqtt]\nport = {mqtt_port}\n\n[cells]\nport = {redis_port}\n")
    await site.start_edge()
    return mqtt_port, redis_port


@asynccontextmanager
async def open_crew(site: Site, seed: int, pad: int = 0) -> AsyncIterator[Crew]:
    """Give the edge doors, and have the crew work."""
    mqtt_port, redis_port = await open_doors(site)
    devices = site_devices(mqtt_port, pad)
    try:
        async with trio.open_nursery() as nursery:
            crew = Crew(site, devices, redis_port, seed)
            nursery.start_soon(crew.caller.run)
            yield crew
    finally:
        for one in devices:
            one.end()


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await trio.to_thread.run_sync(is_so):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def final_views(crew: Crew) -> Views:
    """Return what the hub says of each call, once all are over and it has what devices answered."""
    pending = [one.id for one in crew.caller.calls]

    def are_over() -> bool:
        while pending and (found := crew.view(pending[-1])) is not None and found["is_final"]:
            pending.pop()
        return not pending

    await until(are_over)
    await until(lambda: all(one.is_idle for one in crew.devices))
    answered = {one.call for one in crew.told() if one.is_over}
    await until(lambda: all(crew.view(call)["answer"] is not None for call in answered))
    return {one.id: crew.view(one.id) for one in crew.caller.calls}


def check_call(made: Made, view: Any, is_told: bool) -> None:
    """A call has one end, and that is what its device did."""
    end = "DELIVERED" if made.one_way else "ANSWERED"
    assert view["state"] in ({end, "EXPIRED"} if made.is_brief else {end}), view
    assert is_told or view["state"] == "EXPIRED", view
    assert not (is_told and made.device == ABSENT)
    # It is given to its device in time; when the last byte has left is told, a moment later.
    sent_ns = view["sent_ns"]
    assert sent_ns is None or sent_ns <= view["expires_ns"] + LEAVING_NS, view
    wanted = {"did": made.id} if is_told and not made.one_way else None
    assert view["answer"] == wanted, view


def check_told(name: str, told: list[Told], made: list[Made]) -> None:
    """Calls came in order, each under one number; again only where that could not be known."""
    order = {one.id: place for place, one in enumerate(made) if one.device == name}
    came = [one for one in told if one.device == name and not one.is_over]
    assert len({(one.number, one.call) for one in came}) == len({one.call for one in came})
    for one, following in pairwise(came):
        assert order[one.call] <= order[following.call], (one, following)
        if one.call == following.call:
            assert name != UNSURE, one
            assert one.connection < following.connection, (one, following)
    over = set[str]()
    for one in told:
        assert one.is_over or one.call not in over, one
        over |= {one.call} if one.is_over else set()


def check_keys(crew: Crew) -> None:
    """What is at edge and hub is what devices reported and the hub was asked for."""
    found = {key: {name: json.loads(value) for name, value in fields.items()}
             for key, fields in crew.keys().items()}  # fmt: skip
    assets = f"@/entity/{EDGE}/asset/"
    held = {key.removeprefix(assets): fields for key, fields in found.items()
            if key.startswith(assets)}  # fmt: skip
    for fields in held.values():
        del fields["created"]
    assert held == crew.caller.assets
    for device in crew.devices:
        for name in device.names:
            shared = found.get(f"@/shared/{EDGE}/device/{name}", {})
            assert shared == crew.caller.shared[name]
            reported = found[f"@/client/{EDGE}/device/{name}"]["seen"]
            assert reported == device.reported[name], (name, reported, device.reported)


def check_readings(device: Device, points: Sequence[Point]) -> None:
    """All that was acknowledged is there, in order, as often as it was sent and not more."""
    numbers = [int(one.value) for one in points]
    assert [one.time_ns for one in points] == [device.time_ms(one) * 10**6 for one in numbers]
    firsts = list(dict.fromkeys(numbers))
    odd = next((at for at, number in enumerate(firsts) if at != number), len(firsts))
    assert firsts == list(range(device.published)), (device.names, odd, firsts[odd:][:20])
    more = {number: count for number, count in Counter(numbers).items()
            if count > device.sendings[number]}  # fmt: skip
    assert more == {}


async def check_all(crew: Crew, views: Views) -> Verdict:
    """Stop edge and hub, and hold what each has against what devices and caller know."""
    site = crew.site
    verdict = await Demo(site, unseen).compare(seed=1, seconds=0)
    places = site.places(await site.hubd("ledger", "--edge", EDGE))
    assert verdict.findings == []
    told = {one.call for one in crew.told()}
    for made in crew.caller.calls:
        check_call(made, views[made.id], made.id in told)
    for device in crew.devices:
        for name in device.names:
            check_told(name, device.told, crew.caller.calls)
            for key in "ab":
                check_readings(device, places.journal_points[series_id(name, key)])
    return verdict
