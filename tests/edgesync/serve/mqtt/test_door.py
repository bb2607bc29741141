"""The door itself, over real sockets, into a real store."""

import json
import socket
import ssl
import struct
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode, Reading, recorder
from edgesync.demo.site import free_ports
from edgesync.errors import StoreFull
from edgesync.events import EventQuery
from edgesync.model import Lane
from edgesync.serve.followed import stamp
from edgesync.serve.mqtt import server as server_module
from edgesync.serve.mqtt.client import UNSENT_MAX
from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Pingreq,
    Pingresp,
    Properties,
    Property,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Reason,
    Suback,
    Subscribe,
    Will,
)
from edgesync.store import dead
from tests.edgesync.serve.mqtt.door import Door, Gated, RawClient, make_certificate, open_door
from tests.sites import until

ME = "v1/devices/me/"
LEVELS = pytest.mark.parametrize("level", [V311, V5])


def telemetry(payload: Any, packet_id: int = 1, topic: str = ME + "telemetry") -> Publish:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Publish(topic=topic, payload=raw, qos=1, packet_id=packet_id)


def stored(door: Door, entity: str) -> list[dict[str, Any]]:
    """Return the bodies of the events of an entity, the oldest first; not its series."""
    found = door.node.events(EventQuery(entity=entity))
    return [json.loads(one.body) for one in reversed(found) if one.type != "SERIES"]


async def until_closed(client: RawClient) -> list[object]:
    """Return what still comes, up to the end of the connection."""
    found: list[object] = []
    while (packet := await client.hear()) is not None:
        found.append(packet)
    return found


@pytest.mark.feature("F1", "S29")
@LEVELS
async def test_a_message_is_acknowledged_when_it_is_on_disk(tmp_path: Path, level: int) -> None:
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    async with (
        open_door(tmp_path, recorder=gated) as door,
        door.client(level) as client,
    ):
        await client.say(telemetry({"a": 1}, 7), telemetry({"a": 2}, 8), Pingreq())
        assert await client.hear() == Pingresp()
        assert door.values() == {}
        gates[0].gate.set()
        assert [await client.hear(), await client.hear()] == [
            Puback(packet_id=7), Puback(packet_id=8),
        ]  # fmt: skip
        assert door.values() == {("Scale", "a"): 2}


@pytest.mark.setting("mqtt.host", "mqtt.port", "mqtt.devices")
async def test_the_door_is_where_the_file_says_and_knows_its_devices(tmp_path: Path) -> None:
    settings = {"host": "127.0.0.2", "devices": "who.toml"}
    async with open_door(tmp_path, settings) as door:
        stream = await trio.open_tcp_stream("127.0.0.2", door.port)
        client = RawClient(stream, V311)
        assert await client.ask(Connect(level=V311, username="SCALE_TOKEN")) == Connack()
        await stream.aclose()


@pytest.mark.setting("mqtt.tls_port", "mqtt.certificate", "mqtt.key")
async def test_a_client_speaks_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (port,) = free_ports(1)
    settings = {"tls_port": port, "certificate": certificate.name, "key": key.name}
    async with open_door(tmp_path, settings) as door:
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        context = ssl.create_default_context(cafile=str(certificate))
        stream = trio.SSLStream(plain, context, server_hostname="127.0.0.1")
        async with stream:
            client = RawClient(stream, V5)
            welcome = await client.ask(Connect(username="SCALE_TOKEN", client_id="c"))
            assert isinstance(welcome, Connack)
            await client.say(*(telemetry({"n": n, "x": "x" * 1000}, n) for n in range(1, 100)))
            answers = [await client.hear() for _ in range(1, 100)]
            assert answers == [Puback(packet_id=n) for n in range(1, 100)]
        assert door.values()[("Scale", "n")] == 99
        async with await trio.open_tcp_stream("127.0.0.1", port) as noise:
            await noise.send_all(b"\x10\x0c\0\4MQTT\4\2\0\x0a\0\0")
            assert await RawClient(noise, V311).hear_nothing()


@pytest.mark.feature("S29")
async def test_a_device_tells_telemetry_and_attributes(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        await client.ask(telemetry({"ts": 1_790_000_000_123, "values": {"w": 412.5}}))
        await client.ask(telemetry({"model": "S7"}, 2, "v2/a"))
        (latest,) = door.node.latest()
        assert (latest.entity, latest.key, latest.value) == ("Scale", "w", 412.5)
        assert latest.time_ns == 1_790_000_000_123_000_000
        assert stored(door, "Scale") == [{"scope": "client", "values": {"model": "S7"}}]


@pytest.mark.feature("S29")
async def test_a_question_is_answered_to_who_subscribed(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        filters = (Filter(ME + "rpc/response/+", 1), Filter("v1/gateway/rpc", 1))
        answer = await client.ask(Subscribe(packet_id=1, filters=filters))
        assert answer == Suback(packet_id=1, reasons=(1, 0x80))
        asked = {"method": "getSessionLimits", "params": {"timeout": 5000}}
        assert await client.ask(telemetry(asked, 2, ME + "rpc/request/1")) == Puback(packet_id=2)
        limits = await client.hear()
        assert isinstance(limits, Publish)
        assert limits.topic == ME + "rpc/response/1"
        assert json.loads(limits.payload)["maxInflightMessages"] == 100


@pytest.mark.feature("S29")
@pytest.mark.setting("mqtt.type_cast")
async def test_whether_text_becomes_a_number_is_said_in_the_file(tmp_path: Path) -> None:
    async with open_door(tmp_path, {"type_cast": False}) as door, door.client() as client:
        await client.ask(telemetry({"a": "12.5"}))
        assert door.values() == {("Scale", "a"): "12.5"}


# -- what cannot be stored ---------------------------------------------------------------------


@pytest.mark.feature("S29")
async def test_a_bad_payload_costs_that_message_and_says_which_field(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(V5) as client:
        bad = {"ts": "soon", "values": {"a": 1}}
        await client.say(telemetry({"a": 1}, 1), telemetry(bad, 2), telemetry({"a": 3}, 3))
        answers = [await client.hear() for _ in range(3)]
        problem = "ts: is no time in milliseconds since 1970"
        assert answers == [
            Puback(packet_id=1),
            Puback(packet_id=2, reason=0x99, properties={Property.REASON_STRING: problem}),
            Puback(packet_id=3),
        ]
        assert door.values() == {("Scale", "a"): 3}
        status = door.server.status()
        assert (status.messages, status.readings, status.refused) == (3, 2, 1)
        (refusal,) = status.refusals
        assert (refusal.device, refusal.problem) == ("Scale", problem)


@LEVELS
@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (ME + "telemetry", b'{"\\ud800":1}'),
        (ME + "attributes", b'{"\\udfff":{"a":"\\ud800"}}'),
        ("v1/gateway/telemetry", b'{"\\ud800":[{"values":{"a":1}}]}'),
    ],
)
async def test_half_a_character_costs_its_message_not_the_edge(
    tmp_path: Path, level: int, topic: str, payload: bytes
) -> None:
    """JSON may name what no UTF-8 can: the problem that quotes it is told and stored."""
    async with open_door(tmp_path) as door, door.client(level, token="GATE_TOKEN") as client:
        answer = await client.ask(telemetry(payload, topic=topic))
        assert isinstance(answer, Puback)
        (refusal,) = stored(door, "Gate")
        assert "half of a surrogate pair" in refusal["refused"][0]
        assert isinstance(await client.ask(telemetry({"a": 1})), Puback)
        assert "?" in door.server.status().refusals[0].problem


@pytest.mark.feature("S29")
@pytest.mark.parametrize("payload", [b"{", b"\xff", b"[" * 60_000, b'{"a":1e999999}', b""])
async def test_in_version_3_1_1_the_refusal_is_stored_and_acknowledged(
    tmp_path: Path, payload: bytes
) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        assert await client.ask(telemetry(payload, 1)) == Puback(packet_id=1)
        (event,) = stored(door, "Scale")
        assert event["topic"] == ME + "telemetry"
        assert event["refused"]
        assert await client.ask(telemetry({"a": 1}, 2)) == Puback(packet_id=2)


@pytest.mark.setting("mqtt.bad_payload")
async def test_or_the_connection_ends_if_the_file_says_so(tmp_path: Path) -> None:
    async with open_door(tmp_path, {"bad_payload": "close"}) as door, door.client() as client:
        await client.say(telemetry({"a": 1}, 1), telemetry(b"{", 2), telemetry({"a": 3}, 3))
        assert await until_closed(client) == [Puback(packet_id=1)]
        assert stored(door, "Scale")[0]["refused"]


async def test_refusals_are_not_stored_without_end(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        async with door.client() as client:
            await client.say(*(telemetry(b"{", number) for number in range(1, 31)))
            assert await until_closed(client) == [
                Puback(packet_id=number) for number in range(1, 11)
            ]
        async with door.client(V5) as client:  # which can be told
            await client.say(*(telemetry(b"{", number) for number in range(1, 31)))
            answers = [await client.hear() for _ in range(30)]
            assert [getattr(one, "reason", None) for one in answers] == [0x99] * 30
        assert len(stored(door, "Scale")) == 20


@pytest.mark.feature("F1", "S29")
@LEVELS
async def test_a_gateways_message_is_acknowledged_when_all_of_it_is_on_disk(
    tmp_path: Path, level: int
) -> None:
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    async with (
        open_door(tmp_path, recorder=gated) as door,
        door.client(level, token="GATE_TOKEN") as client,
    ):
        payload = {name: [{"w": nth}] for nth, name in enumerate("ABC")}
        await client.say(telemetry(payload, 7, "v1/gateway/telemetry"), Pingreq())
        assert await client.hear() == Pingresp()
        assert door.values() == {}
        gates[0].gate.set()
        assert await client.hear() == Puback(packet_id=7)
        assert door.values() == {("A", "w"): 0, ("B", "w"): 1, ("C", "w"): 2}
        assert await client.ask(Pingreq()) == Pingresp()  # and nothing else


@pytest.mark.feature("S29")
@LEVELS
async def test_one_acknowledgement_for_all_devices_of_a_gateway(tmp_path: Path, level: int) -> None:
    async with open_door(tmp_path) as door, door.client(level, token="GATE_TOKEN") as client:
        payload = {"A": [{"w": 1}], "B": [{"ts": "x", "values": {"w": 2}}], "C": [{"w": 3}]}
        answer = await client.ask(telemetry(payload, 1, "v1/gateway/telemetry"))
        assert isinstance(answer, Puback)
        assert answer.reason == 0
        if level == V5:
            assert "B[0].ts" in str(answer.properties[Property.REASON_STRING])
        assert door.values() == {("A", "w"): 1, ("C", "w"): 3}
        (event,) = stored(door, "Gate")
        assert event["refused"] == ["B[0].ts: is no time in milliseconds since 1970"]
        assert json.loads(event["payload"]) == payload
        (refusal,) = door.server.status().refusals
        assert (refusal.device, refusal.problem) == ("Gate", event["refused"][0])
        (letter,) = door.node.dead()
        assert (letter.device, letter.lane, letter.reason) == ("Gate", "", event["refused"][0])
        assert [one.entity for one in door.node.events(EventQuery(state="DEAD"))] == ["Gate"]
        assert await client.ask(Pingreq()) == Pingresp()
        assert await door.node.replay_dead() == 0  # only the gateway has the message whole
        assert door.node.dead() == []


async def test_of_what_was_refused_the_newest_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead, "LISTED", 3)
    async with open_door(tmp_path) as door, door.client() as client:
        for number in range(1, 6):
            await client.ask(telemetry(b"%d" % number, number))
        values = [one["payload"] for one in stored(door, "Scale")]
        assert values == ["1", "2", "3", "4", "5"]
        door.node.part("link").record_dead(Lane.NORMAL, 1, "odd")
        await until(lambda: len(door.node.dead()) == 4)
        await client.ask(telemetry(b"6", 6))
        assert [one.device for one in door.node.dead()] == ["", "Scale", "Scale"]


async def test_one_series_too_many_costs_its_message_only(tmp_path: Path) -> None:
    async with open_door(tmp_path, series={"max": 2}) as door:
        async with door.client(V5) as client, door.client(V5, client_id="d") as neighbour:
            await client.say(*(telemetry({f"k{n}": n}, n) for n in range(1, 5)))
            await neighbour.say(telemetry({"k1": 7}, 1))
            answers = [await client.hear() for _ in range(4)]
            reasons = [one.reason for one in answers if isinstance(one, Puback)]
            assert reasons == [0, 0, 0x97, 0x97]
            assert await neighbour.hear() == Puback(packet_id=1)
        assert door.values()[("Scale", "k1")] in (1, 7)


@pytest.mark.feature("S29")
async def test_one_event_that_cannot_be_costs_its_message_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... also beside others of the same message, and of the same write."""
    monkeypatch.setattr(recorder, "EVENT_BODY_MAX", 1000)
    async with open_door(tmp_path) as door, door.client(V5, token="GATE_TOKEN") as client:
        behind = {"A": {"model": "x" * 2000}, "B": {"model": "S7"}}
        for packet_id in (1, 2):
            answer = await client.ask(telemetry(behind, packet_id, "v1/gateway/attributes"))
            assert isinstance(answer, Puback)
            assert (answer.packet_id, answer.reason) == (packet_id, Reason.PAYLOAD_FORMAT_INVALID)
        assert {one.reason for one in door.node.dead()} == {"an event's body is at most 1000 bytes"}
        answer = await client.ask(telemetry({"B": {"model": "S7"}}, 3, "v1/gateway/attributes"))
        assert isinstance(answer, Puback)
        assert answer.reason == 0


@LEVELS
async def test_a_full_store_acknowledges_nothing_and_says_come_later(
    tmp_path: Path, level: int
) -> None:
    lanes = {"lanes": {"bulk": {"capacity": 4}}}
    async with open_door(tmp_path, sync=lanes) as door:
        acknowledged = 0
        answer: object = None
        async with door.client(level) as client:
            for number in range(1, 10):
                answer = await client.ask(telemetry({"a": number}, number))
                if not isinstance(answer, Puback):
                    break
                acknowledged += 1
            if level == V5:
                assert isinstance(answer, Disconnect)
                assert answer.reason == Reason.QUOTA_EXCEEDED
        assert 0 < acknowledged < 5
        assert door.values()[("Scale", "a")] == acknowledged
        async with door.stranger(level) as late:
            answer = await late.ask(Connect(level=level, username="SCALE_TOKEN"))
            assert isinstance(answer, Connack)
            assert answer.reason == (Reason.QUOTA_EXCEEDED if level == V5 else 3)
        assert "lane bulk full" in door.server.status().problem


# -- who comes in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connect", "code"),
    [
        ({"username": "nobody"}, 5),
        ({}, 5),
        ({"client_id": "pump-1", "username": "pump", "password": b"wrong"}, 4),
        ({"client_id": "other", "username": "pump", "password": b"secret"}, 4),
        ({"client_id": "pump-1", "username": "pump", "password": b"secret"}, 0),
        ({"username": "SCALE_TOKEN"}, 0),
    ],
)
async def test_a_device_is_who_its_credentials_say(
    tmp_path: Path, connect: dict[str, Any], code: int
) -> None:
    async with open_door(tmp_path) as door, door.stranger(V311) as client:
        answer = await client.ask(Connect(level=V311, **connect))
        assert isinstance(answer, Connack)
        assert answer.reason == code
        assert door.server.status().rejected == (code != 0)


@pytest.mark.setting("mqtt.guesses_max")
@pytest.mark.parametrize(("level", "code"), [(V311, 3), (V5, Reason.QUOTA_EXCEEDED)])
async def test_who_guesses_is_held_up_and_who_was_let_in_is_not(
    tmp_path: Path, level: int, code: int
) -> None:
    async def reason(door: Door, **connect: Any) -> int:
        async with door.stranger(level) as client:
            answer = await client.ask(Connect(level=level, **connect))
            assert isinstance(answer, Connack)
            return answer.reason

    wrong = {"client_id": "pump-1", "username": "pump"}
    async with open_door(tmp_path, {"guesses_max": 5}) as door:
        assert await reason(door, username="SCALE_TOKEN") == 0
        for _ in range(7):  # the same one: a device that errs
            assert await reason(door, username="NOBODY") not in (0, code)
        for number in range(4):
            assert await reason(door, **wrong, password=b"%d" % number) not in (0, code)
        assert await reason(door, **wrong, password=b"secret") == code
        assert await reason(door, username="GATE_TOKEN") == code
        assert await reason(door, username="SCALE_TOKEN") == 0
        assert door.server.status().held_up == 2
        assert door.server.status().rejected == 7 + 4 + 2


@pytest.mark.setting("mqtt.anonymous", "mqtt.topics")
async def test_clients_without_credentials_have_the_name_the_file_gives(tmp_path: Path) -> None:
    settings = {"anonymous": "barn", "topics": [{"topic": "shelly/{device}/#"}]}
    async with open_door(tmp_path, settings) as door, door.stranger() as client:
        await client.ask(Connect())
        await client.ask(telemetry({"a": 1}, 1))
        await client.ask(telemetry({"a": 2}, 2, "shelly/fan/status"))
        refused = await client.ask(telemetry({"a": 3}, 3, "shelly/Scale/status"))
        assert isinstance(refused, Puback)
        assert refused.reason == Reason.NOT_AUTHORIZED
        assert door.values() == {("barn", "a"): 1, ("fan", "a"): 2}


async def test_a_device_speaks_for_itself_and_a_gateway_for_no_other_source(
    tmp_path: Path,
) -> None:
    settings = {"topics": [{"topic": "shelly/{device}/#"}]}
    meter = {"name": "meter0", "host": "127.0.0.1", "port": 1, "profile": "edgesync-sim-meter"}
    async with open_door(tmp_path, settings, modbus=[meter]) as door:
        async with door.client(V5) as client:
            other = await client.ask(telemetry({"a": 1}, 1, "shelly/fan/x"))
            own = await client.ask(telemetry({"a": 2}, 2, "shelly/Scale/x"))
            assert [getattr(one, "reason", None) for one in (other, own)] == [0x87, 0]
        async with door.client(V5, token="GATE_TOKEN") as gateway:
            for number, name in enumerate(("meter0", "Scale"), start=1):
                await gateway.ask(telemetry({name: [{"a": 9}]}, number, "v1/gateway/telemetry"))
        assert door.values() == {("Scale", "a"): 2}


async def test_a_connection_with_the_same_client_id_takes_over(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(V5) as first:
        async with door.client(V5) as second:
            (goodbye,) = await until_closed(first)
            assert isinstance(goodbye, Disconnect)
            assert goodbye.reason == Reason.SESSION_TAKEN_OVER
            assert await second.ask(telemetry({"a": 1}, 1)) == Puback(packet_id=1)
        status = door.server.status()
        assert (status.taken_over, status.clients) == (1, 1) or status.clients == 0


async def test_two_clients_with_one_token_are_both_served(tmp_path: Path) -> None:
    async with (
        open_door(tmp_path) as door,
        door.client(client_id="one") as first,
        door.client(client_id="two") as second,
        door.client(client_id="one", token="GATE_TOKEN") as other,
    ):
        for number in range(1, 4):
            for client in (first, second, other):
                assert await client.ask(telemetry({"a": number}, number)) == Puback(
                    packet_id=number
                )
        assert door.server.status().taken_over == 0
        assert door.server.status().clients == 3


class FullOnce(Gated):
    """A store that takes nothing of the first write, and then has room."""

    is_full, is_asked = True, False

    async def ingest(self, readings: Sequence[Reading]) -> None:
        self.is_asked = True
        await self.gate.wait()
        is_full, self.is_full = self.is_full, False
        if is_full:
            raise StoreFull(used_bytes=1, limit_bytes=1)
        await self.node.ingest(readings)


async def test_nothing_is_stored_that_came_behind_what_was_not(tmp_path: Path) -> None:
    """The client sends all of it again, in order; the others lose nothing."""
    stores: list[FullOnce] = []

    def full_once(node: EdgeNode) -> FullOnce:
        stores.append(FullOnce(node))
        return stores[0]

    async with (
        open_door(tmp_path, recorder=full_once) as door,
        door.client() as client,
        door.client(token="GATE_TOKEN") as other,
    ):
        await client.say(telemetry({"a": 1}, 1))
        await until(lambda: stores[0].is_asked)
        await client.say(telemetry({"a": 2}, 2), telemetry({"b": 2}, 3))
        await other.say(telemetry({"c": 1}, 1))
        await until(lambda: door.server.status().messages == 4)
        stores[0].gate.set()
        assert await other.hear() == Puback(packet_id=1)
        assert await until_closed(client) == []
        assert door.values() == {("Gate", "c"): 1}
        assert door.server.status().problem == ""  # of the last time


async def test_who_takes_over_waits_until_the_last_message_is_on_disk(tmp_path: Path) -> None:
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    message = Publish(topic=ME + "telemetry", payload=b'{"a":1}', qos=2, packet_id=5)
    async with open_door(tmp_path, recorder=gated) as door:
        async with door.client(clean_start=False) as first, door.stranger(V311) as second:
            await first.say(message, Pingreq())
            await first.hear()
            await second.say(
                Connect(level=V311, client_id="c", username="SCALE_TOKEN", clean_start=False),
                message,
            )
            assert await until_closed(first) == []
            gates[0].gate.set()
            assert await second.hear() == Connack(session_present=True)
            assert await second.hear() == Pubrec(packet_id=5)
            assert await second.ask(Pubrel(packet_id=5)) == Pubcomp(packet_id=5)
        assert door.server.status().readings == 1


async def test_who_is_gone_before_it_is_admitted_leaves_nothing_behind(tmp_path: Path) -> None:
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    async with open_door(tmp_path, recorder=gated) as door:
        async with door.client() as first, door.stranger(V311) as second:
            await first.say(telemetry({"a": 1}), Pingreq())
            await first.hear()
            await second.say(Connect(level=V311, client_id="c", username="SCALE_TOKEN"))
            assert await until_closed(first) == []
            assert isinstance(second.stream, trio.SocketStream)
            second.stream.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # its network ends with a reset
        await until(lambda: not door.server._clients)
        gates[0].gate.set()
        await until(lambda: door.server.status().readings == 1)
        assert door.server.status().clients == 0


@pytest.mark.setting("mqtt.session_expiry")
async def test_a_session_is_there_when_its_client_comes_back(tmp_path: Path) -> None:
    filters = (Filter(ME + "rpc/response/+", 1),)
    async with open_door(tmp_path, {"session_expiry": "77s"}) as door:
        async with door.client(clean_start=False) as client:
            await client.ask(Subscribe(packet_id=1, filters=filters))
        async with door.stranger(V311) as client:
            connect = Connect(level=V311, client_id="c", username="SCALE_TOKEN", clean_start=False)
            assert await client.ask(connect) == Connack(session_present=True)
            asked = telemetry({"method": "getSessionLimits"}, 1, ME + "rpc/request/1")
            await client.ask(asked)
            assert isinstance(await client.hear(), Publish)
        async with door.stranger(V5) as client:
            forever: Properties = {Property.SESSION_EXPIRY: 0xFFFF_FFFF}
            answer = await client.ask(Connect(username="SCALE_TOKEN", properties=forever))
            assert isinstance(answer, Connack)
            assert answer.properties[Property.SESSION_EXPIRY] == 77


@pytest.mark.slow
async def test_devices_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(V5) as client:
        path = tmp_path / "mqtt-devices.toml"
        path.write_text("[[device]]\nname = 'X'\n")  # has no credentials: nothing changes
        await until(lambda: door.server._credentials._seen[0] == stamp(path))
        assert await client.ask(telemetry({"a": 1}, 1)) == Puback(packet_id=1)
        path.write_text("[[device]]\nname = 'New'\ntoken = 'NEW_TOKEN'\n")
        (goodbye,) = await until_closed(client)
        assert isinstance(goodbye, Disconnect)
        assert goodbye.reason == Reason.NOT_AUTHORIZED
        async with door.client(token="NEW_TOKEN") as new:
            await new.ask(telemetry({"a": 2}, 1))
        assert door.values() == {("Scale", "a"): 1, ("New", "a"): 2}


# -- going -------------------------------------------------------------------------------------


async def test_the_will_of_a_client_that_vanishes_is_stored(tmp_path: Path) -> None:
    will = Will(topic=ME + "telemetry", payload=b'{"alive":false}')
    async with open_door(tmp_path) as door:
        async with door.client(will=will) as client:
            await client.ask(telemetry({"alive": True}))
            await client.say(Disconnect())
            assert await until_closed(client) == []
        assert door.values() == {("Scale", "alive"): True}
        async with door.client(will=will):
            pass
        await until(lambda: door.values() == {("Scale", "alive"): False})


class Walked(set[Any]):
    """A set that counts who walks through it."""

    walks = 0

    def __iter__(self) -> Iterator[Any]:
        self.walks += 1
        return super().__iter__()


async def test_a_will_costs_no_look_at_all_devices(tmp_path: Path) -> None:
    """When a switch restarts the wills of all its clients are due at once."""
    will = Will(topic=ME + "telemetry", payload=b'{"alive":false}')
    async with open_door(tmp_path) as door:
        devices = Walked(door.server.credentials.devices)
        door.server.credentials.devices = devices
        async with door.client(will=will):
            pass
        await until(lambda: door.values() == {("Scale", "alive"): False})
        assert devices.walks == 0


@pytest.mark.slow
async def test_a_client_that_falls_silent_is_ended(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(V5, keepalive_s=1) as client:
        (goodbye,) = await until_closed(client)
        assert isinstance(goodbye, Disconnect)
        assert goodbye.reason == Reason.KEEP_ALIVE_TIMEOUT
        assert door.server.status().clients == 0


@pytest.mark.slow
async def test_a_slow_disk_is_no_silence_of_the_clients(tmp_path: Path) -> None:
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    async with (
        open_door(tmp_path, {"inflight_max": 1}, recorder=gated) as door,
        door.client(keepalive_s=1) as client,
    ):
        await client.say(telemetry({"a": 1}, 1), telemetry({"a": 2}, 2))
        await trio.sleep(3.5)  # two ticks beyond its keepalive
        assert door.server.status().clients == 1
        gates[0].gate.set()
        assert [await client.hear(), await client.hear()] == [
            Puback(packet_id=1), Puback(packet_id=2),
        ]  # fmt: skip


async def test_clients_are_told_when_the_edge_stops(tmp_path: Path) -> None:
    async with AsyncExitStack() as outer:
        async with open_door(tmp_path) as door:
            client = await outer.enter_async_context(door.client(V5))
        (goodbye,) = await until_closed(client)
        assert isinstance(goodbye, Disconnect)
        assert goodbye.reason == Reason.SERVER_SHUTTING_DOWN


# -- bounds ------------------------------------------------------------------------------------


@pytest.mark.setting("mqtt.packet_limit")
async def test_a_packet_that_is_too_large_ends_its_connection(tmp_path: Path) -> None:
    async with open_door(tmp_path, {"packet_limit": "1 KiB"}) as door:
        async with door.client(V5) as client:
            await client.say(telemetry({"a": "x" * 2000}))
            (goodbye,) = await until_closed(client)
            assert isinstance(goodbye, Disconnect)
            assert goodbye.reason == Reason.PACKET_TOO_LARGE
        async with door.client(V5) as client:
            assert await client.ask(telemetry({"a": "x" * 900})) == Puback(packet_id=1)


@pytest.mark.slow
@pytest.mark.setting("mqtt.inflight_max")
@LEVELS
async def test_messages_under_way_are_bounded(tmp_path: Path, level: int) -> None:
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    async with (
        open_door(tmp_path, {"inflight_max": 3}, recorder=gated) as door,
        door.client(level) as client,
    ):
        # Whatever Receive Maximum says, paho sends all it has after a connection was cut.
        await client.say(*(telemetry({"a": n}, n) for n in range(1, 500)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert door.server.status().messages <= 3
        gates[0].gate.set()
        answers = [await client.hear() for _ in range(1, 500)]
        assert answers == [Puback(packet_id=n) for n in range(1, 500)]


@pytest.mark.setting("mqtt.clients_max")
async def test_clients_are_bounded_and_strangers_give_way(tmp_path: Path) -> None:
    async with open_door(tmp_path, {"clients_max": 2}) as door, door.client() as client:
        other = door.client(client_id="d", token="GATE_TOKEN")
        async with door.stranger(V311) as silent, other as second:
            assert await silent.hear() is None
            async with door.stranger(V311) as third:
                assert await third.hear() is None
            for one in (client, second):
                assert await one.ask(telemetry({"a": 1})) == Puback(packet_id=1)
        assert door.server.status().rejected == 2


@pytest.mark.parametrize("level", [V311, V5])
async def test_a_device_that_takes_all_places_gives_way_to_another(
    tmp_path: Path, level: int
) -> None:
    """I8: the newest of its clients, so that the others stay."""
    async with (
        open_door(tmp_path, {"clients_max": 3}) as door,
        door.client(level, client_id="1") as first,
        door.client(level, client_id="2") as second,
        door.client(level, client_id="3") as third,
        door.client(level, client_id="other", token="GATE_TOKEN") as other,
    ):
        if level == V5:
            goodbye = await third.hear()
            assert isinstance(goodbye, Disconnect)
            assert goodbye.reason == Reason.QUOTA_EXCEEDED
        assert await third.hear() is None
        for one in (first, second, other):
            assert await one.ask(telemetry({"a": 1})) == Puback(packet_id=1)
        assert door.server.status().clients == 3


@pytest.mark.slow
async def test_a_client_that_never_reads_holds_up_nobody(tmp_path: Path) -> None:
    async with (
        open_door(tmp_path) as door,
        door.client(client_id="good") as good,
        door.client(client_id="deaf", token="GATE_TOKEN") as deaf,
    ):
        await deaf.ask(Subscribe(packet_id=1, filters=(Filter("#", 0),)))
        question = b'{"method":"' + b"x" * 100 + b'"}'
        packets = [Publish(topic=ME + "rpc/request/1", payload=question) for _ in range(200)]
        with trio.move_on_after(2.0) as patience:
            while True:
                await deaf.say(*packets)
        assert patience.cancelled_caught  # it is not read from any more
        (client,) = [one for one in door.server._clients.values() if one.key == ("Gate", "deaf")]
        assert len(client.out) < 2 * UNSENT_MAX
        for number in range(1, 20):
            assert await good.ask(telemetry({"a": number}, number)) == Puback(packet_id=number)


@pytest.mark.slow
async def test_what_is_not_complete_is_bounded_for_all_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HELD_MAX", 100_000)
    half = b"\x30\xff\xff\x03" + b"\0\1a" + b"x" * 40_000
    async with open_door(tmp_path) as door, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(door.client(V5, client_id=f"c{number}"))
            for number in range(4)
        ]
        for client in clients:
            await client.stream.send_all(half)
        server = door.server
        await until(lambda: server._held_bytes <= 100_000 and server.status().clients <= 2)
        await stack.aclose()
        await until(lambda: not door.server._clients)
        assert door.server._held_bytes == 0


async def test_when_too_much_waits_for_the_disk_nobody_is_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PENDING_MAX", 50_000)
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    async with open_door(tmp_path, recorder=gated) as door, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(door.client(client_id=f"c{number}"))
            for number in range(4)
        ]
        big = {"a": "x" * 10_000}
        for client in clients:
            await client.say(*(telemetry(big, number) for number in range(1, 11)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert door.server._pending_bytes < 70_000
        gates[0].gate.set()
        for client in clients:
            assert [await client.hear() for _ in range(10)] == [
                Puback(packet_id=number) for number in range(1, 11)
            ]
        assert door.server._pending_bytes == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x10",
        b"\x10\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
        b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x0a\x7f\x00\x00\x00",
        b"\xc0\x00" * 5000,
        bytes(range(256)) * 64,
    ],
)
async def test_a_stranger_that_speaks_no_mqtt_is_sent_away(tmp_path: Path, raw: bytes) -> None:
    async with open_door(tmp_path) as door, door.client() as neighbour:
        async with door.stranger() as stranger:
            await stranger.stream.send_all(raw)
            if len(raw) > 1:
                await until_closed(stranger)
        assert await neighbour.ask(telemetry({"a": 1})) == Puback(packet_id=1)
        await until(lambda: len(door.server._clients) <= 1)
