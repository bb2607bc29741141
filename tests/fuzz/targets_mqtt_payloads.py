"""What MQTT devices publish: payloads on every kind of topic, and patterns of topics."""

from edgesync.errors import ConfigError
from edgesync.serve.devices.thingsboard import Device, Refused, ThingsBoard, ToldLimits
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.mqtt.mapping import TopicMap
from edgesync.serve.mqtt.settings import TopicSettings
from tests.edgesync.serve.mqtt.attributes import HeldAttributes
from tests.fuzz.fuzz import Target

GATEWAY = Device("gw", is_gateway=True)
TOPICS = (
    "v1/devices/me/telemetry", "v1/devices/me/attributes", "v1/devices/me/rpc/request/1",
    "v1/devices/me/attributes/request/1", "v1/gateway/telemetry", "v1/gateway/attributes",
    "v1/gateway/connect", "v1/gateway/attributes/request", "j/d/x", "c/d/x", "n/d/x", "t/d/x",
)  # fmt: skip
PAYLOADS = (
    b'{"airTemp":4.25,"door":false,"note":"12.50","big":123456789012345678901,"e":1e3,"n":null}',
    b'{"ts":1790000000123,"values":{"airTemp":4.5,"at":{"x":[1,2]}}}',
    b'[{"ts":1790000001000,"values":{"airTemp":4.75}},{"airTemp":"-7"}]',
    b'{"Pen 4":[{"ts":1790000002000,"values":{"weight":412.5}}],"Pen 5":[{"weight":398.0}]}',
    b'{"device":"Pen 4","type":"scale","id":5,"client":false,"keys":["setpoint","mode"]}',
    b'{"method":"getSessionLimits","params":{"timeout":5000}}',
    b"2026-11-29T08:00:00Z,21.5,ok\n2026-11-29T08:01:00+01:00,-3e2,\n",
    b"-12.75",
)
MAP = TopicMap(
    [
        TopicSettings(topic="j/{device}/#", time="ts"),
        TopicSettings(
            topic="c/{device}/#", format="csv", columns=("at", "a", "b"), time="at",
            time_unit="iso",
        ),
        TopicSettings(topic="n/{device}/{what}", key="{what}", format="number"),
        TopicSettings(topic="t/{device}/{what}", key="{what}", format="text"),
    ],
    cast=True,
    may_name=lambda _device, _name: True,
)  # fmt: skip
API = ThingsBoard(
    ToldLimits(65_536, 100),
    cast=True,
    may_name=lambda _device, _name: True,
    attributes=HeldAttributes(),
)


def read_payload(data: bytes) -> None:
    """Read what is after the first byte as a payload on the topic that it chooses."""
    topic = TOPICS[data[0] % len(TOPICS)] if data else TOPICS[0]
    message = API.message(GATEWAY, topic, data[1:], 0) or MAP.message(GATEWAY, topic, data[1:], 0)
    assert message is not None
    for reading in message.readings:
        assert 0 < len(reading.entity) <= 255
        assert 0 < len(reading.key) <= 255
        assert -(1 << 63) <= reading.time_ns < 1 << 63
        assert type(reading.value) in (float, int, bool, str)
        if type(reading.value) is int:
            assert -(1 << 63) <= reading.value < 1 << 63
        elif isinstance(reading.value, str):
            assert len(reading.value.encode()) <= 16_384


def read_pattern(data: bytes) -> None:
    topic, _, payload = data.decode(errors="replace").partition("\n")
    rule = TopicMap(
        [TopicSettings(topic=topic or "x")], cast=True, may_name=lambda _device, _name: True
    )
    rule.message(GATEWAY, payload, b"{}", 0)


TARGETS = [
    Target(
        "mqtt payloads",
        [bytes([at]) + payload for at in range(len(TOPICS)) for payload in PAYLOADS],
        read_payload,
        (BadPayload, Refused),
    ),
    Target(
        "mqtt patterns",
        [b"a/{device}/+/{x}/#\na/b/c/d/e", b"a/{b}\na/b", b"#\nx/y"],
        read_pattern,
        (ConfigError, BadPayload, Refused),
    ),
]  # fmt: skip
