"""Events from the hub that are neither state nor calls, and calls of the edge itself."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgesync import EdgeNode
from edgesync.events import EventQuery
from edgesync.model import Action, EntityType, Event, EventType, Lane
from edgesync.rpc.model import SELF, State
from edgesync.serve.devices.told import set_tokens
from hubd.rpc.calls import encoded
from tests.edgesync.sync.rpc_hub import RpcHub, call, final
from tests.edgesync.sync.test_driver import until

pytestmark = [pytest.mark.feature("S9", "S8"), pytest.mark.slow]

NOW_NS = 1_790_000_000 * 10**9


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RpcHub]:
    made = RpcHub(tmp_path)
    yield made
    made.registry.close()


def event(type_: int, action: int, entity: str, **facts: Any) -> bytes:
    return encoded(
        Event(
            type=type_, action=action, entity_type=EntityType.DEVICE, entity_id=entity,
            body=msgspec.json.encode(facts), time_ns=NOW_NS, created_ns=NOW_NS,
        )
    )  # fmt: skip


def kept(node: EdgeNode, type_: str) -> list[tuple[str, str, str]]:
    found = node.events(EventQuery(type=type_, limit=1000))
    return [(one.action, one.entity, one.body) for one in reversed(found)]


async def test_what_the_hub_tells_takes_effect_once_and_is_kept(
    hub: RpcHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told while the cable is out, with what nobody can read, kinds that nobody knows, and a device
    for which there is no place: none holds up what comes after it.
    """
    monkeypatch.setattr("edgesync.serve.devices.told.PROVISIONED_MAX", 1)
    reading = {"key": "Forecast", "value": 12.5, "time_ns": NOW_NS, "unit": "W"}
    told = [
        event(EventType.TELEMETRY, Action.TIMESERIES_UPDATED, "sun", readings=[reading]),
        event(EventType.TELEMETRY, Action.TIMESERIES_UPDATED, "sun", readings="none"),
        event(EventType.TELEMETRY, Action.TIMESERIES_DELETED, "sun", keys=["Forecast"]),
        event(EventType.ENTITY, Action.ASSIGNED_TO_CUSTOMER, "pump", customer="Mill"),
        event(EventType.ENTITY, Action.CREDENTIALS_UPDATED, "pump", token_sha256="a" * 64),
        event(EventType.ENTITY, Action.CREDENTIALS_UPDATED, "mill", token_sha256="b" * 64),
        event(EventType.CUSTOM, Action.NONE, "", say="hello"),
        event(EventType.CUSTOM, 250, "pump", say="of a newer hub"),
        event(4711, 250, "pump", say="newer still"),
    ]
    hub.journal.send("barn", Lane.NORMAL, told)
    async with hub.serving():
        async with hub.node() as node:
            await until(lambda: hub.journal.view("barn").records == 0)
            (latest,) = [one for one in node.latest() if one.entity == "sun"]
            assert (latest.key, latest.value, latest.unit) == ("Forecast", 12.5, "W")
            assert kept(node, "TELEMETRY") == [
                ("TIMESERIES_DELETED", "sun", '{"keys":["Forecast"]}')
            ]
            assert [one[0] for one in kept(node, "ENTITY")] == [
                "ASSIGNED_TO_CUSTOMER", "CREDENTIALS_UPDATED",
            ]  # fmt: skip
            assert kept(node, "CUSTOM") == [
                ("NONE", "", '{"say":"hello"}'), ("250", "pump", '{"say":"of a newer hub"}'),
            ]  # fmt: skip
            lifecycle = [one[2] for one in kept(node, "LIFECYCLE")]
            assert sum("downlink_refused" in one for one in lifecycle) == 2
            assert any("downlink_unknown" in one and "4711" in one for one in lifecycle)
            await node.sync(60)
            # A device that has the edge's own name is asked nothing.
            async with node.part("rpc").serve(SELF):
                assert node.part("rpc")._speakers[SELF] is node.part("told")
        file = hub.folder / "edge" / "data" / "mqtt-provisioned.toml"
        assert f'token_sha256 = "{"a" * 64}"' in file.read_text()
        # Once more, of a hub that was restored: the edge knows what it has.
        async with hub.node() as node:
            assert len(kept(node, "CUSTOM")) == 2


async def test_a_thousand_tokens_are_few_files(
    hub: RpcHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written before the floor moves, in a thread: the loop of the edge waits for no disk."""
    written = list[tuple[int, str]]()

    def set_tokens_seen(folder: Path, tokens: Mapping[str, str]) -> None:
        written.append((len(tokens), threading.current_thread().name))
        assert hub.journal.view("barn").records > 0
        set_tokens(folder, tokens)

    monkeypatch.setattr("edgesync.serve.devices.told.set_tokens", set_tokens_seen)
    told = [
        event(EventType.ENTITY, Action.CREDENTIALS_UPDATED, f"pump {n}", token_sha256=f"{n:064x}")
        for n in range(1000)
    ]
    for n in range(0, 1000, 100):
        hub.journal.send("barn", Lane.NORMAL, told[n : n + 100])
    async with hub.serving():
        async with hub.node():
            await until(lambda: hub.journal.view("barn").records == 0)
        text = (hub.folder / "edge" / "data" / "mqtt-provisioned.toml").read_text()
    assert all(f"{n:064x}" in text for n in range(1000))
    assert sum(count for count, _ in written) == 1000
    assert len(written) <= 100  # batches of 16 at least, whatever the machine
    assert threading.main_thread().name not in {name for _, name in written}


async def test_an_edge_says_what_it_cannot_be_asked(hub: RpcHub) -> None:
    async with hub.serving() as service, hub.node():
        sent = await service.send("default", "barn", call("explode", device=SELF))
        done = await final(service, sent)
        assert done.state is State.ANSWERED
        assert done.error == "an edge has no method 'explode'; sync it has"
