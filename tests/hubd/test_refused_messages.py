"""What a device sent and its edge cannot store is in the dead list of both."""

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from edgesync.cli import main
from edgesync.demo.site import free_ports
from edgesync.serve.mqtt.packets import V311, Connack, Connect, Pingreq, Pingresp, Puback, Publish
from tests.edgesync.serve.mqtt.door import DEVICES, RawClient
from tests.outages.ship import Ship

pytestmark = [pytest.mark.slow, pytest.mark.feature("S10", "S14", "S29")]

WHY = "B[0].ts: is no time in milliseconds since 1970"


async def test_one_child_of_a_gateway_that_is_wrong_is_a_dead_letter_at_both_ends(
    tmp_path: Path,
) -> None:
    ship, (port,) = Ship(tmp_path), free_ports(1)
    path = tmp_path / "ship" / "mqtt-devices.toml"
    path.write_text(DEVICES)
    path.chmod(0o600)
    sent = {"A": [{"w": 1}], "B": [{"ts": "x", "values": {"w": 2}}], "C": [{"w": 3}]}
    async with (
        ship.hub() as hub,
        ship.node(mqtt={"port": port}, http={"port": 0}) as node,
        node.serving(),
    ):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            client = RawClient(stream, V311)
            greeting = Connect(level=V311, client_id="g", username="GATE_TOKEN")
            assert isinstance(await client.ask(greeting), Connack)
            message = Publish(
                topic="v1/gateway/telemetry", payload=json.dumps(sent).encode(), qos=1,
                packet_id=7,
            )  # fmt: skip
            assert await client.ask(message) == Puback(packet_id=7)
            assert await client.ask(Pingreq()) == Pingresp()  # and nothing else
        values = {(one.entity, one.key): one.value for one in node.latest()}
        assert values == {("A", "w"): 1, ("C", "w"): 3}
        await hub.until("/edges/ship", lambda one: one["state"]["dead"] == 1)
        (dead,) = await hub.all("/events", "events", status="dead")
        assert (dead["edge"], dead["entity"], dead["reason"]) == ("ship", "Gate", WHY)
        assert json.loads(dead["body"]["payload"]) == sent
    config = tmp_path / "ship" / "edge.toml"
    config.write_text('[edge]\nname = "ship"\n')
    # As JSON: a table breaks its lines where there is room.
    for asked in (["queue", "--json"], ["events", "--state", "DEAD", "--json"]):
        told = CliRunner().invoke(main, ["--config", str(config), *asked])
        assert told.exit_code == 0, told.output
        assert "Gate" in told.output
        assert "B[0].ts" in told.output
