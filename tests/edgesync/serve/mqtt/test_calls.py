"""Calls of devices over MQTT, from a hub to real clients and back; and what devices call here."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
import trio
from msgspec import Raw
from paho.mqtt.enums import CallbackAPIVersion

from edgesync import EdgeNode
from edgesync.events import EventQuery
from edgesync.rpc.model import Report, State
from edgesync.serve.mqtt.connection import OUTGOING_MAX
from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Filter,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
)
from hubd.rpc.calls import CallView
from tests.edgesync.serve.mqtt.door import RawClient
from tests.edgesync.sync.rpc_hub import RpcHub, call, clocked, final, send_all
from tests.edgesync.sync.test_driver import until

pytestmark = [pytest.mark.feature("S24", "S29"), pytest.mark.slow]

ME = "v1/devices/me/"
LEVELS = pytest.mark.parametrize("level", [V311, V5])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RpcHub]:
    made = RpcHub(tmp_path)
    yield made
    made.registry.close()


class Site:
    def __init__(self, node: EdgeNode, port: int) -> None:
        self.node = node
        self.port = port

    @asynccontextmanager
    async def client(
        self, topic: str = ME + "rpc/request/+", *, level: int = V311, qos: int = 1,
        token: str = "SCALE_TOKEN", subscribes: bool = True, **connect: Any,
    ) -> AsyncIterator[RawClient]:  # fmt: skip
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            client = RawClient(stream, level)
            connect = {"client_id": "c", "username": token, **connect}
            assert isinstance(await client.ask(Connect(level=level, **connect)), Connack)
            if subscribes:
                asked = Subscribe(packet_id=1, filters=(Filter(topic, qos),))
                assert isinstance(await client.ask(asked), Suback)
            yield client


@asynccontextmanager
async def open_site(hub: RpcHub) -> AsyncIterator[Site]:
    node, port = hub.device_node()
    async with node, node.serving():
        yield Site(node, port)


async def heard(client: RawClient) -> Publish:
    packet = await client.hear()
    assert isinstance(packet, Publish), packet
    return packet


def number(publish: Publish) -> int:
    return int(publish.topic.rpartition("/")[2])


def answer(publish: Publish, value: Any, packet_id: int = 9) -> Publish:
    topic = publish.topic.replace("request", "response").replace("/req/", "/res/")
    return Publish(topic=topic, payload=json.dumps(value).encode(), qos=1, packet_id=packet_id)


@LEVELS
@pytest.mark.parametrize("topic", [ME + "rpc/request/+", "v2/r/req/+", "v2/r/req/j/+"])
async def test_a_device_is_called_acknowledges_and_answers(
    hub: RpcHub, level: int, topic: str
) -> None:
    async with (
        hub.serving() as service,
        open_site(hub) as site,
        site.client(topic, level=level) as client,
    ):
        sent = await service.send("default", "barn", call("set", {"v": 1}, device="Scale"))
        asked = await heard(client)
        assert asked.topic.startswith(topic.rstrip("+"))
        assert json.loads(asked.payload) == {"method": "set", "params": {"v": 1}}
        await client.say(Puback(packet_id=asked.packet_id))
        await until(lambda: hub.calls.one(None, sent.id).state is State.DELIVERED)  # type: ignore[union-attr]
        assert await client.ask(answer(asked, {"ok": True})) == Puback(packet_id=9)
        done = await final(service, sent)
        assert (done.state, done.answer) == (State.ANSWERED, Raw(b'{"ok": true}'))


async def test_a_sleeping_device_gets_in_order_what_has_not_expired(hub: RpcHub) -> None:
    """10 calls, 2 of them over; it drops after 3, and the other 5 come on the next connect."""
    async with hub.serving() as service, open_site(hub) as site:
        views = [
            await service.send(
                "default", "barn", call(f"m{n}", device="Scale", ttl_s=1 if n in (2, 5) else 60)
            )
            for n in range(10)
        ]
        for n in (2, 5):
            assert (await final(service, views[n])).state is State.EXPIRED
        got: list[str] = []
        async with site.client() as client:
            for _ in range(3):
                asked = await heard(client)
                got.append(json.loads(asked.payload)["method"])
                await client.say(Puback(packet_id=asked.packet_id))
            fourth = await heard(client)  # it is sent, and not acknowledged
        async with site.client() as client:
            again = await heard(client)
            assert (number(again), again.payload) == (number(fourth), fourth.payload)
            got.append(json.loads(again.payload)["method"])
            await client.say(Puback(packet_id=again.packet_id))
            for _ in range(4):
                asked = await heard(client)
                got.append(json.loads(asked.payload)["method"])
                await client.say(Puback(packet_id=asked.packet_id))
        assert got == [f"m{n}" for n in range(10) if n not in (2, 5)]


async def test_nothing_is_kept_of_calls_that_a_client_left_unacknowledged(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site:
        calls = site.node.part("mqtt")._server._calls
        await service.send("default", "barn", call("set", device="Scale"))
        async with site.client() as client:
            await heard(client)
            assert [len(one) for one in calls._tickets.values()] == [1]
        await until(lambda: not calls._tickets)


async def test_a_call_is_sent_when_it_was_and_delivered_when_the_device_says_so(
    hub: RpcHub,
) -> None:
    """No state is told before it is so."""

    def seen(view: CallView) -> CallView:
        found = hub.calls.one(None, view.id)
        assert found is not None
        return found

    async with hub.serving() as service, open_site(hub) as site:
        sent = await service.send("default", "barn", call("set", device="Scale"))
        await until(lambda: seen(sent).edge_ns is not None)
        async with site.client(subscribes=False) as client:  # it is there, and takes no calls
            assert await client.ask(Pingreq()) == Pingresp()
            assert seen(sent).state is State.QUEUED
        async with site.client() as client:
            asked = await heard(client)
            await until(lambda: seen(sent).state is State.SENT)
            await client.ask(Pingreq())
            # All that the edge has to say of it is said.
            await until(lambda: site.node.status().pending == 0)
            assert (seen(sent).state, seen(sent).delivered_ns) == (State.SENT, None)
            await client.say(Puback(packet_id=asked.packet_id))
            await until(lambda: seen(sent).state is State.DELIVERED)


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_call_is_not_sent_while_its_bytes_wait_for_who_does_not_read(
    tmp_path: Path, qos: int
) -> None:
    """It was not written to its device's socket: its time passes, and who called is told so once.

    A gateway with calls for more devices than its socket takes.
    """
    names, large = [f"d{n:03}" for n in range(120)], "x" * 40_000

    async with clocked(tmp_path) as (hub, clock), hub.serving() as service, open_site(hub) as site:
        asked = [call("go", large, device=name, ttl_s=3600) for name in names]
        ids = send_all(hub.calls, "barn", asked)
        await service.send("default", "barn", call("go", device="other"))  # and all of them go

        def found() -> list[CallView]:
            return [one for one in map(partial(hub.calls.one, None), ids) if one is not None]

        def sent_at_edge() -> int:
            count: int = site.node.part("rpc").status()["rpc"].sent
            return count

        with trio.socket.socket() as raw:
            raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            await raw.connect(("127.0.0.1", site.port))
            client = RawClient(trio.SocketStream(raw), V311)
            greeting = Connect(level=V311, client_id="g", username="GATE_TOKEN")
            assert isinstance(await client.ask(greeting), Connack)
            filters = (Filter("v1/gateway/rpc", qos),)
            assert isinstance(await client.ask(Subscribe(packet_id=1, filters=filters)), Suback)
            readings = json.dumps({name: [{"a": 1}] for name in names}).encode()
            await client.say(Publish(topic="v1/gateway/telemetry", payload=readings))
            (served,) = site.node.part("mqtt")._server._clients.values()
            await until(lambda: served.is_blocked)
            await until(lambda: {one.edge_ns for one in found()}.isdisjoint({None}))
            assert 0 < sent_at_edge() * len(large) <= served.sent_bytes
            await until(lambda: sum(one.sent_ns is not None for one in found()) == sent_at_edge())
            told, buffered = sent_at_edge(), len(served._marks)
            assert told + buffered < len(names)
            assert {one.state for one in found() if one.sent_ns is None} == {State.QUEUED}
            clock.passed_s += 4000
            for one in found():
                done = await final(service, one)
                assert (done.state, done.reason) == (State.EXPIRED, "its time passed")
            await client.say(Pingreq())  # and it reads again, too late
            called = [await client.hear()]
            while called[-1] != Pingresp():
                called.append(await client.hear())
            assert len(called) - 1 <= told + buffered + 1
            assert {one.state for one in found()} == {State.EXPIRED}
            assert sum(one.sent_ns is not None for one in found()) <= told + 1


async def test_a_session_that_is_kept_is_called_without_a_new_subscription(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site:
        async with site.client(clean_start=False):
            pass
        sent = await service.send("default", "barn", call("wake", device="Scale"))
        async with site.client(clean_start=False, subscribes=False) as client:
            asked = await heard(client)
            await client.say(Puback(packet_id=asked.packet_id), answer(asked, 1))
            assert (await final(service, sent)).state is State.ANSWERED


HOSTILE = ["1e400", '"\\ud800"', '"\\udfff\\ud800 "', "[" * 900 + "]" * 900, "9" * 5000,
           f'"{"x" * 50_000}"']  # fmt: skip


@pytest.mark.parametrize("raw", HOSTILE)
async def test_an_answer_that_nobody_can_read_ends_its_call_and_nothing_else(
    hub: RpcHub, raw: str
) -> None:
    async with hub.serving() as service, open_site(hub) as site:
        async with site.client() as client:
            sent = await service.send("default", "barn", call("set", device="Scale"))
            local: list[Report] = []
            await site.node.part("rpc").place(
                "Scale", "own", 1, timeout_s=60, one_way=False, ended=local.append
            )
            asked: list[Publish] = []
            for _ in range(2):
                asked.append(await heard(client))
                await client.say(Puback(packet_id=asked[-1].packet_id))
            for one in asked:
                said = msgspec.structs.replace(answer(one, 0), payload=raw.encode())
                assert await client.ask(said) == Puback(packet_id=9)
            assert (await final(service, sent)).error.startswith("an answer ")
            await until(lambda: bool(local))
            assert local[0].error.startswith("an answer ")
        async with site.client(topic="v1/gateway/rpc", token="GATE_TOKEN") as client:
            connect = Publish(
                topic="v1/gateway/connect", payload=b'{"device":"Child"}', qos=1, packet_id=8
            )
            await client.ask(connect)
            sent = await service.send("default", "barn", call("set", device="Child"))
            number = json.loads((await heard(client)).payload)["data"]["id"]
            payload = f'{{"device":"Child","id":{number},"data":{raw}}}'.encode()
            said = Publish(topic="v1/gateway/rpc", payload=payload, qos=1, packet_id=9)
            assert await client.ask(said) == Puback(packet_id=9)
            assert (await final(service, sent)).state is State.ANSWERED


@pytest.mark.parametrize("is_child", [False, True])
async def test_an_answer_that_comes_late_is_kept_with_its_own_call(
    tmp_path: Path, is_child: bool
) -> None:
    """The caller was told that its time passed, and the device is asked for the same once more."""
    device, topic = ("Child", "v1/gateway/rpc") if is_child else ("Scale", ME + "rpc/request/+")

    def number_of(asked: Publish) -> int:
        return int(json.loads(asked.payload)["data"]["id"]) if is_child else number(asked)

    def answered(asked: Publish, value: str) -> Publish:
        if not is_child:
            return answer(asked, value)
        said = {"device": device, "id": number_of(asked), "data": value}
        return Publish(topic=topic, payload=json.dumps(said).encode(), qos=1, packet_id=9)

    async with (
        clocked(tmp_path) as (hub, clock), hub.serving() as service, open_site(hub) as site,
        site.client(topic, token="GATE_TOKEN" if is_child else "SCALE_TOKEN") as client,
    ):  # fmt: skip
        if is_child:
            connect = b'{"device":"Child"}'
            await client.ask(
                Publish(topic="v1/gateway/connect", payload=connect, qos=1, packet_id=8)
            )
        early = await service.send("default", "barn", call("open", device=device, ttl_s=60))
        first = await heard(client)
        await client.say(Puback(packet_id=first.packet_id))
        clock.passed_s = 70.0
        gone = await final(service, early)
        assert (gone.state, gone.answer) == (State.EXPIRED, None)
        again = await service.send("default", "barn", call("open", device=device, ttl_s=60))
        second = await heard(client)
        await client.say(Puback(packet_id=second.packet_id))
        assert number_of(second) != number_of(first)
        assert await client.ask(answered(first, "late")) == Puback(packet_id=9)
        await until(lambda: is_late(hub, early))
        still = hub.calls.one(None, again.id)
        assert still is not None
        assert (still.is_final, still.answer) == (False, None)
        assert await client.ask(answered(second, "now")) == Puback(packet_id=9)
        assert (await final(service, again)).answer == Raw(b'"now"')
        kept = hub.calls.one(None, early.id)
        assert kept is not None
        assert (kept.state, kept.answer) == (State.EXPIRED, Raw(b'"late"'))
        # It is an event of the edge, as every answer is.
        told = [json.loads(one.body) for one in site.node.events(EventQuery(entity=device))
                if one.type == "RPC_RESPONSE"]  # fmt: skip
        answers = [(one["id"], one["answer"]) for one in reversed(told) if "answer" in one]
        assert answers == [(early.id, "late"), (again.id, "now")]


def is_late(hub: RpcHub, view: CallView) -> bool:
    found = hub.calls.one(None, view.id)
    assert found is not None
    return found.is_late


async def test_where_nothing_is_acknowledged_a_call_is_sent_once(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site:
        first = await service.send("default", "barn", call("a", device="Scale"))
        async with site.client(qos=0) as client:
            asked = await heard(client)
            assert asked.qos == 0
            await until(lambda: hub.calls.one(None, first.id).state is State.SENT)  # type: ignore[union-attr]
        second = await service.send("default", "barn", call("b", device="Scale"))
        async with site.client(qos=0) as client:
            asked = await heard(client)
            assert json.loads(asked.payload)["method"] == "b"
            await client.say(answer(asked, 2))
            assert (await final(service, second)).answer == Raw(b"2")


async def test_a_gateway_is_called_for_the_devices_it_connects(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site:
        sent = await service.send("default", "barn", call("open", 5, device="Child"))
        async with site.client("v1/gateway/rpc", token="GATE_TOKEN") as client:
            connect = b'{"device":"Child"}'
            topic = "v1/gateway/connect"
            await client.say(Publish(topic=topic, payload=connect, qos=1, packet_id=3))
            packets = [await client.hear(), await client.hear()]
            (asked,) = [one for one in packets if isinstance(one, Publish)]
            found = json.loads(asked.payload)
            assert (asked.topic, found["device"]) == ("v1/gateway/rpc", "Child")
            assert found["data"]["method"] == "open"
            told = {"device": "Child", "id": found["data"]["id"], "data": {"is": "open"}}
            await client.say(
                Puback(packet_id=asked.packet_id),
                Publish(topic="v1/gateway/rpc", payload=json.dumps(told).encode()),
            )
            assert (await final(service, sent)).answer == Raw(b'{"is":"open"}')


async def test_a_gateway_is_called_for_more_devices_than_it_takes_messages_at_once(
    hub: RpcHub,
) -> None:
    names = [f"d{number}" for number in range(2 * OUTGOING_MAX + 100)]
    async with hub.serving() as service, open_site(hub) as site:
        send_all(hub.calls, "barn", [call("go", device=name, ttl_s=600) for name in names])
        last = await service.send("default", "barn", call("go", device="d0", ttl_s=600))
        async with site.client("v1/gateway/rpc", token="GATE_TOKEN") as client:
            readings = json.dumps({name: [{"a": 1}] for name in names}).encode()
            await client.say(Publish(topic="v1/gateway/telemetry", payload=readings))
            rpc = site.node.part("rpc")
            await until(lambda: rpc.status()["rpc"].sent == OUTGOING_MAX)
            called: list[str] = []
            while len(called) < len(names) + 1:
                asked = await heard(client)
                called.append(json.loads(asked.payload)["device"])
                await client.say(Puback(packet_id=asked.packet_id))
            assert sorted(called) == sorted([*names, "d0"])
            await until(lambda: hub.calls.one(None, last.id).state is State.DELIVERED)  # type: ignore[union-attr]


async def test_a_device_answers_nobody_elses_calls(hub: RpcHub) -> None:
    async with hub.serving() as service, open_site(hub) as site:
        sent = await service.send("default", "barn", call("a", device="Pump"))
        await until(lambda: hub.journal.view("barn").records == 0)
        async with site.client() as client:
            forged = Publish(topic=ME + "rpc/response/1", payload=b"1", qos=1, packet_id=4)
            assert await client.ask(forged) == Puback(packet_id=4)
        found = hub.calls.one(None, sent.id)
        assert found is not None
        assert found.state is State.QUEUED


async def test_a_call_a_client_cannot_take_is_answered_with_why(hub: RpcHub) -> None:
    from edgesync.serve.mqtt.packets import Property

    async with hub.serving() as service, open_site(hub) as site:
        small = {Property.MAXIMUM_PACKET_SIZE: 200}
        async with site.client(level=V5, properties=small):
            sent = await service.send("default", "barn", call("a", "x" * 500, device="Scale"))
            done = await final(service, sent)
            assert "larger than the packets" in done.error


async def test_what_a_device_calls_is_answered_here_or_refused_by_name(hub: RpcHub) -> None:
    async def add(device: str, params: Any) -> Any:
        if params is None:
            raise ValueError("nothing to add")
        return {"for": device, "sum": sum(params)}

    def asked(method: str, params: Any) -> Publish:
        payload = json.dumps({"method": method, "params": params}).encode()
        return Publish(topic=ME + "rpc/request/77", payload=payload)

    async with open_site(hub) as site, site.client(ME + "rpc/response/+") as client:
        site.node.part("rpc").register("add", add)
        answers = []
        for method, params in (("add", [1, 2]), ("add", None), ("fly", 1)):
            await client.say(asked(method, params))
            reply = await heard(client)
            assert reply.topic == ME + "rpc/response/77"
            await client.say(Puback(packet_id=reply.packet_id))
            answers.append(json.loads(reply.payload))
        assert answers == [
            {"for": "Scale", "sum": 3},
            {"error": "ValueError: nothing to add"},
            {"error": "nobody answers 'fly' at this edge"},
        ]


async def test_paho_is_called_also_after_the_cable_was_out(hub: RpcHub) -> None:
    """An unmodified client with a session of its own, asleep when the calls are made."""
    got: list[str] = []

    def on_connect(client: paho.Client, *_: Any) -> None:
        client.subscribe(ME + "rpc/request/+", qos=1)

    def on_message(client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        got.append(json.loads(message.payload)["method"])
        topic = message.topic.replace("request", "response")
        client.publish(topic, json.dumps({"did": got[-1]}), qos=1)

    def connected(port: int) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="scale-1", clean_session=False)
        client.username_pw_set("SCALE_TOKEN")
        client.on_connect, client.on_message = on_connect, on_message
        client.connect("127.0.0.1", port)
        client.loop_start()
        return client

    async with open_site(hub) as site:
        # No hub: calls are made in its database, and wait.
        made = [hub.calls.send("default", "barn", call(f"m{n}", device="Scale")) for n in range(5)]
        client = await trio.to_thread.run_sync(connected, site.port)
        try:
            async with hub.serving() as service:
                for view, _ in made:
                    done = await final(service, view)
                    assert done.state is State.ANSWERED
                client.disconnect()
                await trio.to_thread.run_sync(client.loop_stop)
                later = [
                    await service.send("default", "barn", call(f"n{n}", device="Scale"))
                    for n in range(5)
                ]
                await until(lambda: hub.journal.view("barn").records == 0)
                client = await trio.to_thread.run_sync(connected, site.port)
                for one in later:
                    assert (await final(service, one)).state is State.ANSWERED
        finally:
            client.disconnect()
            client.loop_stop()
    assert got == [f"m{n}" for n in range(5)] + [f"n{n}" for n in range(5)]
