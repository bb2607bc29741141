"""Topics of devices that know nothing of ThingsBoard, by `[[mqtt.topics]]`."""

from typing import Any

import pytest

from edgesync.errors import ConfigError
from edgesync.model import Reading
from edgesync.serve.devices.thingsboard import Device, Refused
from edgesync.serve.devices.values import BadPayload
from edgesync.serve.mqtt.mapping import TopicMap
from edgesync.serve.mqtt.packets import Reason
from edgesync.settings import from_table

NOW = 1_790_000_000_000_000_000
BARN = Device("barn", is_anonymous=True)


def read(
    payload: bytes, *topics: dict[str, Any], topic: str = "shelly/pump/status"
) -> list[Reading]:
    settings = from_table({"mqtt": {"topics": list(topics)}}, file="edge.toml", environment={})
    found = TopicMap(settings.mqtt.topics, cast=True, may_name=lambda _device, name: name != "no")
    message = found.message(BARN, topic, payload, NOW)
    return [] if message is None else message.readings


def rows(*args: Any, **more: Any) -> list[tuple[str, str, Any]]:
    return [(one.entity, one.key, one.value) for one in read(*args, **more)]


@pytest.mark.setting("mqtt.topics")
def test_members_of_json_are_series_of_the_device_in_the_topic() -> None:
    payload = b'{"power":12.5,"on":true,"temp":{"tC":21.5,"tF":70.7},"note":null,"list":[1]}'
    assert rows(payload, {"topic": "shelly/{device}/status"}) == [
        ("pump", "power", 12.5), ("pump", "on", True), ("pump", "temp.tC", 21.5),
        ("pump", "temp.tF", 70.7), ("pump", "list", "[1]"),
    ]  # fmt: skip


@pytest.mark.setting("mqtt.topics.entity", "mqtt.topics.key", "mqtt.topics.unit")
def test_names_are_made_of_the_topic() -> None:
    rule = {
        "topic": "shelly/{room}/{what}", "entity": "Room {room}", "key": "{what}.{key}",
        "unit": "W",
    }  # fmt: skip
    assert read(b'{"a":1}', rule) == [Reading("Room pump", "status.a", 1, NOW, "W")]
    # Without a device in its pattern a topic is the client's own.
    assert rows(b'{"a":1}', {"topic": "shelly/#"}) == [("barn", "a", 1)]


@pytest.mark.setting("mqtt.topics.keys")
def test_only_wanted_members_count() -> None:
    rule = {"topic": "shelly/#", "keys": ["b.c", "a"]}
    assert rows(b'{"a":1,"x":2,"b":{"c":3,"d":4}}', rule) == [("barn", "a", 1), ("barn", "b.c", 3)]


@pytest.mark.setting("mqtt.topics.format")
@pytest.mark.parametrize(
    ("text", "value"),
    [(b"21.5", 21.5), (b" -3 \n", -3), (b"1e3", 1000), (b".5", 0.5)],
)
def test_a_number_alone(text: bytes, value: float) -> None:
    rule = {"topic": "shelly/{device}/status", "format": "number"}
    assert rows(text, rule) == [("pump", "status", value)]


def test_a_number_that_no_number_holds_is_its_digits() -> None:
    """As in JSON; what stood for it inside was stored."""
    row = {"topic": "shelly/#", "format": "csv", "columns": ["temp"]}
    alone = {"topic": "shelly/{device}/status", "format": "number"}
    for rule in (row, alone):
        ((_, _, value),) = rows(b"-12e25", rule)
        assert (type(value), value) == (str, "-12" + "0" * 25)
        with pytest.raises(BadPayload, match="digits"):
            rows(b"1e99999", rule)


def test_text_alone() -> None:
    rule = {"topic": "shelly/{device}/status", "format": "text", "key": "state"}
    assert rows(b"12", rule) == [("pump", "state", "12")]


@pytest.mark.setting("mqtt.topics.columns")
def test_columns_of_csv() -> None:
    rule = {"topic": "shelly/#", "format": "csv", "columns": ["temp", "", "state"]}
    assert rows(b'21.5,x,"on, dry"\n\n22,y,\n', rule) == [
        ("barn", "temp", 21.5), ("barn", "state", "on, dry"), ("barn", "temp", 22),
    ]  # fmt: skip


@pytest.mark.setting("mqtt.topics.time", "mqtt.topics.time_unit")
@pytest.mark.parametrize(
    ("unit", "when", "time_ns"),
    [
        ("s", "1790000001.5", 1_790_000_001_500_000_000),
        ("us", "1790000001500001", 1_790_000_001_500_001_000),
        ("ns", "1790000001500000001", 1_790_000_001_500_000_001),
        ("iso", '"2026-09-21T14:13:21.500Z"', 1_790_000_001_500_000_000),
        ("iso", '"2026-09-21T16:13:21.5+02:00"', 1_790_000_001_500_000_000),
        ("iso", '"2026-09-21T14:13:21.5"', 1_790_000_001_500_000_000),
    ],
)
def test_the_time_of_a_message(unit: str, when: str, time_ns: int) -> None:
    rule = {"topic": "#", "time": "t", "time_unit": unit}
    assert read(b'{"t":%s,"a":1}' % when.encode(), rule) == [Reading("barn", "a", 1, time_ns)]
    csv = {**rule, "format": "csv", "columns": ["t", "a"]}
    assert read(when.strip('"').encode() + b",1", csv) == [Reading("barn", "a", 1, time_ns)]


def test_a_time_is_in_milliseconds_if_nothing_else_is_said() -> None:
    for when in (b"1790000001500", b'"1790000001500"'):
        (reading,) = read(b'{"t":%s,"a":1}' % when, {"topic": "#", "time": "t"})
        assert reading.time_ns == 1_790_000_001_500_000_000


def test_without_its_time_a_message_has_that_of_its_arrival() -> None:
    assert read(b'{"a":1}', {"topic": "#", "time": "t"})[0].time_ns == NOW


def test_the_first_pattern_that_matches_counts() -> None:
    rules = ({"topic": "a/+", "entity": "one"}, {"topic": "#", "entity": "other"})
    assert rows(b'{"k":1}', *rules, topic="a/b") == [("one", "k", 1)]
    assert rows(b'{"k":1}', *rules, topic="a/b/c") == [("other", "k", 1)]
    assert rows(b'{"k":1}', rules[0], topic="a") == []
    assert rows(b'{"k":1}', *rules, topic="a/" + "b" * 1000) == []


@pytest.mark.parametrize(
    ("payload", "rule", "where"),
    [
        (b"[1]", {}, "[0]: is no object"),
        (b"21.5", {}, "payload: is no object"),
        (b"x", {"format": "number", "key": "k"}, "payload: 'x' is no number"),
        (b"NaN", {"format": "number", "key": "k"}, "payload: 'NaN' is no number"),
        (b"\xff", {"format": "text", "key": "k"}, "payload: is not UTF-8"),
        (b"1,2", {"format": "csv", "columns": ["a"]}, "line 1: 2 columns"),
        (b'{"t":"soon","a":1}', {"time": "t"}, "t: 'soon' is no time in ms"),
        (b'{"t":"soon","a":1}', {"time": "t", "time_unit": "iso"}, "t: 'soon' is no time in ISO"),
        (b'{"t":1e30,"a":1}', {"time": "t"}, "t: "),
        (b'{"":1}', {}, "key: a name has"),
    ],
)
def test_a_bad_payload_is_refused_by_the_name_of_its_field(
    payload: bytes, rule: dict[str, Any], where: str
) -> None:
    with pytest.raises(BadPayload) as caught:
        read(payload, {"topic": "#", **rule})
    assert where in str(caught.value)


def test_who_may_not_speak_for_an_entity_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        read(b'{"a":1}', {"topic": "shelly/{device}/#"}, topic="shelly/no/x")
    assert caught.value.reason is Reason.NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"topic": "a/#/b"}, "topic"),
        ({"topic": "a{b}"}, "topic"),
        ({"topic": "{a}/{a}"}, "topic"),
        ({"topic": "{client}"}, "topic"),
        ({"topic": "a", "entity": "{b}"}, "entity"),
        ({"topic": "a", "entity": "{0}"}, "entity"),
        ({"topic": "a", "key": "{b.c}"}, "key"),
        ({"topic": "a/+", "format": "number"}, "key"),
        ({"topic": "a", "format": "number", "key": "{key}"}, "key"),
        ({"topic": "a", "format": "csv"}, "columns"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused_by_name(
    rule: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(b"{}", rule)
    assert caught.value.field == f"mqtt.topics[0].{field}"
    assert caught.value.remedy
