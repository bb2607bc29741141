"""Calls of devices over MQTT: who speaks for whom, on which topic, and what was acknowledged.

A device is spoken for by the client that proved to be it, once that subscribes to calls; a device
behind a gateway by the gateway, once it says that the device is connected.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from msgspec import Raw

from edgesync.serve.devices.calls import Rpc, answer_of, store_answers
from edgesync.serve.devices.thingsboard import DEVICE, GATEWAY, CallAnswer, DeviceCall
from edgesync.serve.mqtt.steps import Deliver

if TYPE_CHECKING:
    from edgesync.rpc.queue import Call
    from edgesync.serve.mqtt.client import Client

log = logging.getLogger(__name__)

# As a client subscribes: v1, and the short form.
REQUESTS: Final = (DEVICE + "rpc/request/", "v2/r/req/j/", "v2/r/req/")
GATEWAY_TOPIC: Final = GATEWAY + "rpc"
CHILDREN_MAX: Final = 10_000
CALLS_AT_A_TIME: Final = 100


class _Speaker:
    """A client that speaks for one device."""

    def __init__(self, calls: "DoorCalls", client: "Client", device: str) -> None:
        self._calls = calls
        self._client = client
        self.device = device

    def send_call(self, call: "Call") -> bool | None:
        return self._calls.send(self._client, self.device, call)


class DoorCalls:
    """See the module.

    deliver   sends a message to a client
    """

    def __init__(self, rpc: Rpc, deliver: Callable[["Client", Deliver], None]) -> None:
        self._rpc = rpc
        self._deliver = deliver
        self._speakers: dict[Client, dict[str, _Speaker]] = {}
        self._children: dict[Client, set[str]] = {}
        self._waiting: dict[Client, dict[str, None]] = {}  # devices, for a client to have room
        self._tickets: dict[Client, dict[int, tuple[str, int]]] = {}  # what it has not acknowledged
        self._ticket = itertools.count(1)
        self._running = trio.CapacityLimiter(CALLS_AT_A_TIME)

    # -- who is there ----------------------------------------------------------------------------

    def subscribed(self, client: "Client") -> None:
        """Take note of what a client subscribes to now."""
        assert client.device is not None
        self._speak(client, client.device.name, is_there=_topic(client) is not None)
        is_gateway = client.connection.granted(GATEWAY_TOPIC) is not None
        for child in self._children.get(client, ()):
            self._speak(client, child, is_there=is_gateway)

    def note_children(self, client: "Client", children: Sequence[str], gone: str) -> None:
        """Take note of devices that a gateway speaks for from now on, and of one no more."""
        known = self._children.setdefault(client, set())
        is_granted = client.connection.granted(GATEWAY_TOPIC) is not None
        for child in children:
            if len(known) < CHILDREN_MAX:
                known.add(child)
            self._speak(client, child, is_there=child in known and is_granted)
        if gone:
            known.discard(gone)
            self._speak(client, gone, is_there=False)

    def released(self, client: "Client") -> None:
        """The client is gone."""
        self._children.pop(client, None)
        self._waiting.pop(client, None)
        self._tickets.pop(client, None)
        for device in list(self._speakers.get(client, ())):
            self._speak(client, device, is_there=False)

    def _speak(self, client: "Client", device: str, *, is_there: bool) -> None:
        speakers = self._speakers.setdefault(client, {})
        known = speakers.get(device)
        if is_there and known is None:
            speaker = speakers[device] = _Speaker(self, client, device)
            self._rpc.attach(device, speaker)
        elif not is_there and known is not None:
            del speakers[device]
            self._rpc.detach(device, known)
        if not speakers:
            del self._speakers[client]

    # -- to devices ------------------------------------------------------------------------------

    def send(self, client: "Client", device: str, call: "Call") -> bool | None:
        """Send a call; returns whether it will be acknowledged, None when it cannot be sent.

        One that will not be is sent when that is noted: it is not sent again, whatever happens.
        `sent` is told once the socket has it, and not while it waits here for who does not read.
        """
        assert client.device is not None
        data: dict[str, Any] = {"method": call.method, "params": Raw(call.params)}
        if device == client.device.name and (prefix := _topic(client)) is not None:
            topic, payload = f"{prefix}{call.number}", msgspec.json.encode(data)
        else:
            data = {"device": device, "data": {"id": call.number, **data}}
            topic, payload = GATEWAY_TOPIC, msgspec.json.encode(data)
        qos = client.connection.granted(topic, len(payload))
        if qos is None:
            if client.connection.granted(topic) is not None:
                self._refuse(device, call, "it is larger than the packets that the device takes")
                return True
            return None
        if not call.is_unacknowledged:
            if not client.has_room:
                self._waiting.setdefault(client, {})[device] = None
                return None
            if not qos:
                return False
        ticket = next(self._ticket) if qos else 0
        if ticket:
            self._tickets.setdefault(client, {})[ticket] = device, call.number
        self._deliver(client, Deliver(topic, payload, ticket))
        client.when_sent(partial(self._rpc.sent, device, call.number))
        return True

    def catch_up(self, client: "Client") -> None:
        """Go on with calls for which the client had no room."""
        if (waiting := self._waiting.pop(client, None)) is None:
            return
        while waiting and client.has_room:
            device = next(iter(waiting))
            del waiting[device]
            if (speaker := self._speakers.get(client, {}).get(device)) is not None:
                self._rpc.resume(device, speaker)
        if waiting:
            self._waiting[client] = waiting | self._waiting.get(client, {})

    def _refuse(self, device: str, call: "Call", why: str) -> None:
        log.error("mqtt: a call is not sent: device=%s method=%.100s %s", device, call.method, why)
        trio.lowlevel.current_trio_token().run_sync_soon(
            self._rpc.take_answer, device, call.number, None, f"not sent: {why}"
        )

    def acknowledged(self, client: "Client", ticket: int) -> None:
        if (found := self._tickets.get(client, {}).pop(ticket, None)) is not None:
            self._rpc.delivered(*found)

    # -- from devices ----------------------------------------------------------------------------

    async def store(self, answers: Sequence[CallAnswer]) -> list[str]:
        """Do as `store_answers` does."""
        return await store_answers(self._rpc, answers)

    async def answer(self, client: "Client", call: DeviceCall) -> None:
        """Answer what a device calls here."""
        async with self._running:
            payload = await answer_of(self._rpc, call)
        self._deliver(client, Deliver(call.topic, payload))


def _topic(client: "Client") -> str | None:
    """Return the topic on which a client takes calls, without their number; None for none."""
    granted = client.connection.granted
    return next((prefix for prefix in REQUESTS if granted(f"{prefix}1") is not None), None)
