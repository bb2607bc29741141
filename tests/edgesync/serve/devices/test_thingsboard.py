"""What messages on ThingsBoard's topics come to, and how their values are typed."""

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.model import EventType, Reading
from edgesync.serve.devices.thingsboard import (
    Device,
    Message,
    Refused,
    ThingsBoard,
    ToldLimits,
    may_subscribe,
)
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.mqtt.packets import Reason
from tests.edgesync.serve.mqtt.attributes import HeldAttributes

NOW = 1_790_000_000_000_000_000
SCALE, GATEWAY = Device("Scale"), Device("Gate", is_gateway=True)
ME = "v1/devices/me/"


def api(*, cast: bool = True, held: HeldAttributes | None = None) -> ThingsBoard:
    return ThingsBoard(
        ToldLimits(65_536, 100),
        cast=cast,
        may_name=lambda _device, name: name != "Scale",
        attributes=held or HeldAttributes(),
    )


def told(
    topic: str, payload: Any, device: Device = SCALE, *, cast: bool = True,
    held: HeldAttributes | None = None,
) -> Message:  # fmt: skip
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    message = api(cast=cast, held=held).message(device, topic, raw, NOW)
    assert message is not None
    return message


def values(payload: bytes, *, cast: bool = True) -> dict[str, Any]:
    found = told(ME + "telemetry", payload, cast=cast).readings
    return {one.key: one.value for one in found}


TYPED: list[tuple[str, Any]] = [
    ("1", 1), ("-0", 0), ("1.0", 1.0), ("1.5", 1.5), ("-12.75", -12.75),
    ("1e3", 1000), ("1E+2", 100), ("1.5e1", 15), ("1.5e0", 1.5), ("1e-3", 0.001), ("0.0", 0.0),
    ("0e5", 0), ("100e-2", 1), ("0.10", 0.1),
    ("9223372036854775807", 9223372036854775807),
    ("-9223372036854775808", -9223372036854775808),
    ("9223372036854775808", "9223372036854775808"),
    ("123456789012345678901234567890", "123456789012345678901234567890"),
    ("1e20", "100000000000000000000"),
    ("0.1234567890123456", 0.1234567890123456),
    ("0.12345678901234567", "0.12345678901234567"),
    ("1e-20", "0.00000000000000000001"),
    ("true", True), ("false", False),
    ('"text"', "text"), ('""', ""), ('"12.50"', 12.5), ('"7"', 7), ('"-7"', -7), ('".5"', 0.5),
    ('"007"', 7), ('"1e3"', "1e3"), ('"+7"', "+7"), ('"7."', "7."), ('"0x10"', "0x10"),
    ('"1.2.3"', "1.2.3"), ('" 7"', " 7"), ('"-"', "-"), ('"٣"', "٣"),
    ('"9223372036854775808"', "9223372036854775808"),
    ('{"x":[1,2.5,"7"]}', '{"x":[1,2.5,"7"]}'), ("[1,null]", "[1,null]"), ("{}", "{}"),
]  # fmt: skip


@pytest.mark.feature("S29")
@pytest.mark.parametrize(("text", "value"), TYPED)
def test_a_value_has_the_type_that_thingsboard_gives_it(text: str, value: Any) -> None:
    found = values(b'{"k":%s}' % text.encode())["k"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.feature("S29")
def test_without_casting_text_stays_text_and_odd_numbers_are_refused() -> None:
    assert values(b'{"k":"12.50","n":5}', cast=False) == {"k": "12.50", "n": 5}
    for text in (b"9223372036854775808", b"0.12345678901234567"):
        with pytest.raises(BadPayload, match=r"^k: "):
            values(b'{"k":%s}' % text, cast=False)


@pytest.mark.feature("S29")
def test_null_is_left_out() -> None:
    assert values(b'{"a":null,"b":1}') == {"b": 1}
    assert values(b"{}") == {}


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_stored_or_refused(value: Any) -> None:
    found: set[str] = set()
    with contextlib.suppress(BadPayload):
        found = set(values(json.dumps({"k": value}).encode()))
    assert found <= {"k"}


def test_the_three_forms_of_telemetry() -> None:
    assert told(ME + "telemetry", {"a": 1, "b": "x"}).readings == [
        Reading("Scale", "a", 1, NOW), Reading("Scale", "b", "x", NOW),
    ]  # fmt: skip
    assert told("v2/t", {"ts": 1_790_000_000_123, "values": {"a": 1.5}}).readings == [
        Reading("Scale", "a", 1.5, 1_790_000_000_123_000_000)
    ]
    both = [{"ts": 1000, "values": {"a": 1}}, {"a": 2}]
    assert told("v2/t/j", both).readings == [
        Reading("Scale", "a", 1, 10**9), Reading("Scale", "a", 2, NOW),
    ]  # fmt: skip
    # `ts` alone is a key like others, as it is there.
    assert told("v2/t", {"ts": 5}).readings == [Reading("Scale", "ts", 5, NOW)]


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        (b"", "payload: is not JSON"),
        (b"7", "payload: is no object"),
        (b'"x"', "payload: is no object"),
        (b"{", "payload: is not JSON"),
        (b'{"a":NaN}', "payload: is not JSON"),
        (b'{"a":1}x', "payload: is not JSON"),
        (b"\xff\xfe", "payload: is not UTF-8"),
        (b"[" * 100_000, "payload: is nested too deeply"),
        (b'{"k":' + b"[" * 900 + b"]" * 900 + b"}", ""),
        (b"[1]", "[0]: is no object"),
        (b'{"ts":"x","values":{"a":1}}', "ts: is no time"),
        (b'{"ts":1e30,"values":{"a":1}}', "ts: is no time"),
        (b'{"ts":true,"values":{"a":1}}', "ts: is no time"),
        (b'[{"ts":1,"values":3}]', "[0].values: is no object"),
        (b'{"":1}', ": a name has"),
        (b'{"k":"%s"}' % (b"x" * 16_385), "k: text of 16385 bytes"),
        (b'{"k":"\\ud800"}', "k: half of a surrogate pair"),
        (b'{"\\ud800":1}', "half of a surrogate pair"),
        (b'{"k":1e999999}', "k: a number of more than"),
        (b'{"k":1e999999999999999999999}', "k: a number of more than"),
        (b'{"k":-1e-999999999999999999999}', "k: a number of more than"),
        (b'{"' + b"n" * 256 + b'":1}', "a name has 1 to 255"),
        (b'{"' + b"n" * 60_000 + b'":"%s"}' % (b"x" * 16_385), "text of 16385 bytes"),
    ],
)
def test_a_bad_payload_is_refused_by_the_name_of_its_field(payload: bytes, where: str) -> None:
    if not where:
        assert isinstance(values(payload)["k"], str)
        return
    with pytest.raises(BadPayload) as caught:
        values(payload)
    assert where in str(caught.value)
    assert len(str(caught.value)) < 400


def test_attributes_become_an_event() -> None:
    for topic in (ME + "attributes", "v2/a", "v2/a/j"):
        (event,) = told(topic, {"model": "S7", "rev": "3", "gone": None}).events
        assert (event.type, event.entity_id) == (EventType.ATTRIBUTES, "Scale")
        assert msgspec.json.decode(event.body) == {
            "scope": "client", "values": {"model": "S7", "rev": 3}
        }  # fmt: skip
    assert told("v2/a", {}).events == []
    with pytest.raises(BadPayload, match="payload: is no object"):
        told("v2/a", [1])
    with pytest.raises(BadPayload, match="payload: attributes of"):
        told("v2/a", {f"k{number}": "x" * 16_000 for number in range(4)})


# -- gateways ----------------------------------------------------------------------------------


@pytest.mark.feature("S29")
def test_a_gateway_speaks_for_its_devices() -> None:
    payload = {"Pen 4": [{"ts": 1000, "values": {"w": 1.5}}, {"w": 2}], "Pen 5": [{"w": 3}]}
    message = told("v1/gateway/telemetry", payload, GATEWAY)
    assert message.readings == [
        Reading("Pen 4", "w", 1.5, 10**9), Reading("Pen 4", "w", 2, NOW),
        Reading("Pen 5", "w", 3, NOW),
    ]  # fmt: skip
    assert message.refused == []


@pytest.mark.feature("S29")
def test_one_childs_mistake_costs_that_childs_readings_only() -> None:
    payload = {"A": [{"w": 1}], "B": [{"ts": "x", "values": {"w": 2}}], "C": [{"w": 3}], "D": 4}
    message = told("v1/gateway/telemetry", payload, GATEWAY)
    assert [one.entity for one in message.readings] == ["A", "C"]
    assert message.refused == [
        "B[0].ts: is no time in milliseconds since 1970", "D: is no list",
    ]  # fmt: skip


def test_a_gateway_does_not_speak_for_a_device_with_credentials_of_its_own() -> None:
    message = told("v1/gateway/telemetry", {"Scale": [{"w": 1}]}, GATEWAY)
    assert message.readings == []
    assert "speaks for itself" in message.refused[0]


def test_only_a_gateway_may_use_its_topics() -> None:
    for topic in ("telemetry", "attributes", "connect", "disconnect", "attributes/request"):
        with pytest.raises(Refused) as caught:
            told(f"v1/gateway/{topic}", {})
        assert caught.value.reason is Reason.NOT_AUTHORIZED


def test_attributes_of_a_gateways_devices() -> None:
    message = told("v1/gateway/attributes", {"A": {"k": 1}, "B": 7, "C": {}}, GATEWAY)
    assert [one.entity_id for one in message.events] == ["A"]
    assert message.refused == ["B: is no object"]


def test_devices_come_and_go() -> None:
    (event,) = told("v1/gateway/connect", {"device": "A", "type": "scale"}, GATEWAY).events
    assert (event.type, event.entity_id) == (EventType.SOURCE, "A")
    assert msgspec.json.decode(event.body) == {
        "state": "online", "gateway": "Gate", "type": "scale"
    }  # fmt: skip
    (event,) = told("v1/gateway/disconnect", {"device": "A"}, GATEWAY).events
    assert msgspec.json.decode(event.body) == {"state": "offline", "gateway": "Gate"}
    with pytest.raises(BadPayload, match=r"^device: "):
        told("v1/gateway/connect", {"type": "x"}, GATEWAY)


# -- questions ---------------------------------------------------------------------------------


def replies(
    topic: str, payload: Any, device: Device = SCALE, held: HeldAttributes | None = None
) -> list[tuple[str, Any]]:
    found = told(topic, payload, device, held=held).read_replies()
    return [(one, json.loads(body)) for one, body in found]


@pytest.mark.feature("S29", "S15")
def test_attributes_are_asked_for() -> None:
    held = HeldAttributes()
    told(ME + "attributes", {"model": "S7", "net": {"ip": "10.0.0.7"}, "no": "12"}, held=held)
    held.put("Scale", "shared", {"limit": 900, "unit": "kg"})
    asked = {"clientKeys": "model, no,nowhere", "sharedKeys": "limit"}
    both = {"client": {"model": "S7", "no": 12}, "shared": {"limit": 900}}
    ask = ME + "attributes/request/17"
    assert replies(ask, asked, held=held) == [(ME + "attributes/response/17", both)]
    assert replies(ask, {"sharedKeys": "limit"}, held=held)[0][1] == {"shared": {"limit": 900}}
    assert replies(ask, {"clientKeys": "nowhere"}, held=held)[0][1] == {}
    every = {
        "client": {"model": "S7", "net": {"ip": "10.0.0.7"}, "no": 12},
        "shared": {"limit": 900, "unit": "kg"},
    }
    for payload in (b"{}", b""):
        assert replies("v2/a/req/j/3", payload, held=held) == [("v2/a/res/j/3", every)]
    for wrong in ({"clientKeys": 7}, {"sharedKeys": [1]}, {"sharedKeys": ",".join("a" * 2000)}):
        with pytest.raises(BadPayload, match="Keys: "):
            replies(ask, wrong, held=held)


@pytest.mark.feature("S29", "S15")
def test_a_gateway_asks_for_attributes_of_its_devices() -> None:
    held = HeldAttributes()
    told("v1/gateway/attributes", {"A": {"model": "S7"}}, GATEWAY, held=held)
    held.put("A", "shared", {"limit": 900, "unit": "kg"})
    ask, answer = "v1/gateway/attributes/request", "v1/gateway/attributes/response"
    asked: dict[str, Any] = {"id": 5, "device": "A", "client": True, "key": "model"}
    assert replies(ask, asked, GATEWAY, held) == [(answer, {"id": 5, "device": "A", "value": "S7"})]
    asked = {"id": 6, "device": "A", "client": False, "keys": ["limit", "nowhere"]}
    several = {"id": 6, "device": "A", "values": {"limit": 900}}
    assert replies(ask, asked, GATEWAY, held) == [(answer, several)]
    asked = {"id": 7, "device": "A", "key": "nowhere"}
    assert replies(ask, asked, GATEWAY, held) == [(answer, {"id": 7, "device": "A"})]
    with pytest.raises(BadPayload, match="key: "):
        replies(ask, {"id": 5, "device": "A"}, GATEWAY, held)


@pytest.mark.feature("S29")
def test_session_limits_are_told_as_clients_ask_for_them() -> None:
    asked = {"method": "getSessionLimits", "params": {"timeout": 5000}}
    none = {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""}
    limits = {"maxPayloadSize": 65_536, "maxInflightMessages": 100, "rateLimits": none}
    assert replies(ME + "rpc/request/1", asked) == [(ME + "rpc/response/1", limits)]
    assert replies("v2/r/req/7", asked, GATEWAY) == [
        ("v2/r/res/7", {**limits, "gatewayRateLimits": none})
    ]


def test_calls_that_nobody_answers_are_answered_so_that_clients_go_on() -> None:
    ((topic, answer),) = replies(ME + "rpc/request/2", {"method": "getTime", "params": {}})
    assert (topic, list(answer)) == (ME + "rpc/response/2", ["error"])


@pytest.mark.parametrize(
    "topic",
    [
        ME + "claims", ME + "rpc/response/", ME + "nothing", "v2/t/p",
        "v1/gateway/claims", "/provision/response", ME + "rpc/request/", ME + "rpc/request/1/2",
    ],
)  # fmt: skip
def test_other_topics_of_thingsboard_are_refused_by_name(topic: str) -> None:
    with pytest.raises(Refused) as caught:
        told(topic, {}, GATEWAY)
    assert caught.value.reason is Reason.TOPIC_NAME_INVALID


def test_topics_of_others_are_not_taken() -> None:
    for topic in ("shelly/1", "v1", "v1/other", "home/v1/devices/me/telemetry"):
        assert api().message(SCALE, topic, b"{}", NOW) is None


def test_subscriptions_are_for_what_is_sent() -> None:
    for one in (ME + "attributes", ME + "rpc/request/+", "v1/devices/me/#", "#", "+/+/+/+"):
        assert may_subscribe(SCALE, one), one
    for one in ("v1/gateway/rpc", "shelly/#", ME + "telemetry", "v1/devices/other/attributes"):
        assert not may_subscribe(SCALE, one), one
    assert may_subscribe(GATEWAY, "v1/gateway/rpc")


def test_the_samples_of_real_clients_are_taken() -> None:
    samples = Path(__file__).parent / "device-mqtt.jsonl"
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        if sample["topic"] != "v1/gateway/rpc":
            told(sample["topic"], sample["payload"], GATEWAY)
