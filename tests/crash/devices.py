"""Devices that note exactly what they sent, what they were acknowledged and what they were told.

Each is paho's client with its loop in a thread of its own, so that nothing is published between a
connection's begin and what has to be sent again: first arrivals are in order then.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.edgesync.serve.mqtt.door import DEVICES

ME, GATEWAY = "v1/devices/me/", "v1/gateway/"
UNDER_WAY = 20
KEYS = tuple(f"s{n}" for n in range(5))
# Past, and each another time: a reading that is sent again is the same one.
FROM_MS, STEP_MS = 1_790_000_000_000, 10
REPORT_EVERY = 10
CREDENTIALS = f"""{DEVICES}
[[device]]
name = "Lamp"
token = "LAMP_TOKEN"
"""
_SENDING = re.compile(r"Sending PUBLISH \(d\d, q1, r\d, m(\d+)\)")


class Told(NamedTuple):
    """A call as it came, or that its answer was acknowledged (`is_over`)."""

    connection: int
    device: str
    number: int
    call: str
    is_over: bool = False


class Device:
    """Publishes readings, reports what it published last, answers calls, follows its attributes.

    place     of it among devices: no two have readings of one time, which share a record
    pad       characters that each message has besides
    sendings  how often each reading was sent, once it was acknowledged
    shared    what its edge told it of shared attributes, of each of `names`
    """

    topics: Sequence[str] = (
        ME + "rpc/request/+", ME + "attributes", ME + "attributes/response/+"
    )  # fmt: skip

    def __init__(
        self, port: int, place: int, *names: str, user: str, qos: int = 1, pad: int = 0,
        **client: Any,
    ) -> None:  # fmt: skip
        self.names = names
        self._place = place
        self._pad = {"pad": "x" * pad} if pad else {}
        self.published = self.connections = 0
        self.sendings: dict[int, int] = {}
        self.reported: dict[str, int] = {}
        self.told: list[Told] = []
        self.shared: dict[str, dict[str, Any]] = {name: {} for name in names}
        self.publishes = True
        self._port, self._qos = port, qos
        self._sent: dict[int, int | Told | None] = {}
        self._sending: Counter[int] = Counter()
        self._is_over = threading.Event()
        self._client = made = paho.Client(CallbackAPIVersion.VERSION2, **client)
        made.username_pw_set(*user.split(":"))
        made.max_inflight_messages_set(UNDER_WAY)
        made.on_connect, made.on_message = self._connected, self._heard
        made.on_publish, made.on_log = self._acknowledged, self._logged
        self.problem = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_idle(self) -> bool:
        return not self._sent

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                self._turn()
        except Exception as error:  # told by the test
            self.problem = repr(error)
            raise
        self._client.disconnect()

    def _turn(self) -> None:
        if self._client.loop(0.01) != paho.MQTT_ERR_SUCCESS:
            try:
                self._client.connect("127.0.0.1", self._port, keepalive=5)
            except OSError:
                self._is_over.wait(0.05)
        elif self._client.is_connected() and self.publishes and len(self._sent) < UNDER_WAY:
            number, self.published = self.published, self.published + 1
            self._publish(*self.telemetry(number), number)
            if number % REPORT_EVERY == 0:
                self._publish(*self.report(number), None)
                self.reported = dict.fromkeys(self.names, number)

    def _publish(self, topic: str, body: Any, what: int | Told | None) -> None:
        self._sent[self._client.publish(topic, json.dumps(body), qos=1).mid] = what

    def _logged(self, _client: paho.Client, _data: Any, _level: int, text: str) -> None:
        if found := _SENDING.match(text):
            self._sending[int(found[1])] += 1

    def _acknowledged(self, _client: paho.Client, _data: Any, mid: int, *_: Any) -> None:
        what, sendings = self._sent.pop(mid, None), self._sending.pop(mid, 0)
        if isinstance(what, Told):
            self.told.append(what._replace(is_over=True))
        elif what is not None:
            self.sendings[what] = sendings

    def _connected(self, client: paho.Client, *_: Any) -> None:
        self.connections += 1
        client.subscribe([(topic, self._qos) for topic in self.topics])
        self.greet()

    def _ask(self, topic: str, body: Any) -> None:
        self._client.publish(topic, json.dumps(body))

    def _heard(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        said = json.loads(message.payload)
        if "rpc" in message.topic:
            name, number, call = self.call(message.topic, said)
            told = Told(self.connections, name, number, call["params"])
            self.told.append(told)
            if call["method"] == "do":
                self._publish(*self.answer(told), told)
            return
        name, values, is_all = self.values(message.topic, said)
        if is_all:
            self.shared[name] = {}
        for gone in values.pop("deleted", ()):
            self.shared[name].pop(gone, None)
        self.shared[name].update(values)

    def time_ms(self, number: int) -> int:
        return FROM_MS + number * STEP_MS + self._place

    def reading(self, number: int) -> dict[str, Any]:
        values = {"a": number, "b": number, **self._pad}
        return {"ts": self.time_ms(number), "values": values}

    # -- what is said how ------------------------------------------------------------------------

    def telemetry(self, number: int) -> tuple[str, Any]:
        return ME + "telemetry", self.reading(number)

    def report(self, number: int) -> tuple[str, Any]:
        return ME + "attributes", {"seen": number}

    def greet(self) -> None:
        self._ask(ME + "attributes/request/1", {"sharedKeys": ",".join(KEYS)})

    def call(self, topic: str, said: Any) -> tuple[str, int, Any]:
        return self.names[0], int(topic.rpartition("/")[2]), said

    def answer(self, told: Told) -> tuple[str, Any]:
        return f"{ME}rpc/response/{told.number}", {"did": told.call}

    def values(self, topic: str, said: Any) -> tuple[str, dict[str, Any], bool]:
        is_all = "/response/" in topic
        return self.names[0], said.get("shared", {}) if is_all else said, is_all


class Gateway(Device):
    """... for the devices behind it."""

    topics = (GATEWAY + "rpc", GATEWAY + "attributes", GATEWAY + "attributes/response")

    def telemetry(self, number: int) -> tuple[str, Any]:
        return GATEWAY + "telemetry", {name: [self.reading(number)] for name in self.names}

    def report(self, number: int) -> tuple[str, Any]:
        return GATEWAY + "attributes", {name: {"seen": number} for name in self.names}

    def greet(self) -> None:
        for id, name in enumerate(self.names):
            self._publish(GATEWAY + "connect", {"device": name}, None)
            asked = {"id": id, "device": name, "client": False, "keys": KEYS}
            self._ask(GATEWAY + "attributes/request", asked)

    def call(self, topic: str, said: Any) -> tuple[str, int, Any]:
        return said["device"], said["data"]["id"], said["data"]

    def answer(self, told: Told) -> tuple[str, Any]:
        body = {"device": told.device, "id": told.number, "data": {"did": told.call}}
        return GATEWAY + "rpc", body

    def values(self, topic: str, said: Any) -> tuple[str, dict[str, Any], bool]:
        is_all = topic.endswith("response")
        return said["device"], said["values"] if is_all else said["data"], is_all


def site_devices(port: int, pad: int = 0) -> list[Device]:
    """A session that is kept, one of version 5, one of QoS 0, and a gateway with two devices."""
    return [
        Device(port, 0, "Scale", user="SCALE_TOKEN", client_id="scale", clean_session=False,
               pad=pad),
        Device(port, 1, "Pump", user="pump:secret", client_id="pump-1",
               protocol=MQTTProtocolVersion.MQTTv5, pad=pad),
        Device(port, 2, "Lamp", user="LAMP_TOKEN", qos=0),
        Gateway(port, 3, "Pen 1", "Pen 2", user="GATE_TOKEN", client_id="gate"),
    ]  # fmt: skip
