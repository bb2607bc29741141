"""Packets and bytes: golden files, round trips, and what is refused before it costs memory."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.serve.mqtt.decode import CONNECT_BYTES_MAX, Parser
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    BadPacket,
    Connect,
    Packet,
    Pingreq,
    Publish,
    Reason,
)
from edgesync.serve.mqtt.properties import USER_PROPERTIES_MAX, prefixed, varint
from tests.edgesync.serve.mqtt.packets import SAMPLES, packets

GOLDEN = Path(__file__).parents[3] / "golden" / "mqtt-1.json"
LEVELS = st.sampled_from([V311, V5])


def parsed(raw: bytes, level: int = V5, *, packet_max: int = 1 << 20) -> list[Packet]:
    parser = Parser(packet_max, level=level)
    parser.feed(raw)
    found: list[Packet] = []
    while (one := parser.next()) is not None:
        found.append(one)
    assert parser.held_bytes == 0
    return found


def refusal(raw: bytes, level: int = V5, *, packet_max: int = 1 << 20) -> BadPacket:
    parser = Parser(packet_max, level=level)
    parser.feed(raw)
    with pytest.raises(BadPacket) as caught:
        list(iter(parser.next, None))
    return caught.value


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + varint(len(body)) + body


def test_the_bytes_of_every_packet_stay_what_they_were() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert {name: encode(one, level).hex() for name, (level, one) in SAMPLES.items()} == golden
    for name, (level, one) in SAMPLES.items():
        assert parsed(bytes.fromhex(golden[name]), level) == [one], name


def test_bytes_of_the_standard() -> None:
    # Figure 3.6 of version 3.1.1, and the example of section 3.8.3.1 of version 5.
    assert encode(Connect(level=V311, keepalive_s=10), V311).hex() == (
        "10 0c 00 04 4d 51 54 54 04 02 00 0a 00 00".replace(" ", "")
    )
    assert encode(SAMPLES["pingreq"][1], V5) == b"\xc0\x00"


@pytest.mark.slow
@given(LEVELS.flatmap(lambda level: st.tuples(st.just(level), packets(level))))
def test_what_is_encoded_is_decoded_to_the_same(sample: tuple[int, Packet]) -> None:
    level, one = sample
    assert parsed(encode(one, level), level) == [one]


@pytest.mark.slow
@given(
    LEVELS.flatmap(
        lambda level: st.tuples(
            st.just(level), st.lists(packets(level), min_size=1, max_size=4),
            st.integers(1, 7),
        )
    )
)  # fmt: skip
def test_it_does_not_matter_how_bytes_arrive(sample: tuple[int, list[Packet], int]) -> None:
    level, wanted, step = sample
    raw = b"".join(encode(one, level) for one in wanted)
    parser = Parser(1 << 20, level=level)
    found: list[Packet] = []
    for at in range(0, len(raw), step):
        parser.feed(raw[at : at + step])
        found += iter(parser.next, None)
    assert found == wanted


@pytest.mark.slow
@given(LEVELS.flatmap(lambda level: st.tuples(st.just(level), packets(level))), st.data())
def test_a_packet_that_is_cut_is_never_another(
    sample: tuple[int, Packet], data: st.DataObject
) -> None:
    level, one = sample
    raw = encode(one, level)
    cut = data.draw(st.integers(0, len(raw) - 1))
    parser = Parser(1 << 20, level=level)
    parser.feed(raw[:cut])
    assert parser.next() is None


def test_a_server_learns_the_version_from_connect() -> None:
    parser = Parser(1 << 20)
    parser.feed(encode(Connect(level=V311), V311) + encode(Pingreq(), V311))
    assert isinstance(parser.next(), Connect)
    assert parser.level == V311


def test_a_packet_that_is_too_large_is_refused_by_its_announcement() -> None:
    head = bytes([0x30]) + varint(65_537)
    assert refusal(head, packet_max=65_536).reason is Reason.PACKET_TOO_LARGE
    parser = Parser(65_536, level=V5)
    parser.feed(bytes([0x30]) + varint(65_536))
    assert parser.next() is None


def test_a_stranger_may_announce_less() -> None:
    head = bytes([0x10]) + varint(CONNECT_BYTES_MAX + 1)
    assert refusal(head, 0).reason is Reason.PACKET_TOO_LARGE
    assert refusal(head[:1] + b"\xff\xff\xff\x7f", 0).reason is Reason.PACKET_TOO_LARGE


def test_a_length_of_five_bytes_is_refused() -> None:
    assert refusal(b"\x30\xff\xff\xff\xff\x01").reason is Reason.MALFORMED_PACKET
    # … and one that is not complete yet is waited for.
    assert parsed_nothing(b"\x30\xff\xff")


def parsed_nothing(raw: bytes) -> bool:
    parser = Parser(1 << 28, level=V5)
    parser.feed(raw)
    return parser.next() is None


TOPIC_A = prefixed(b"a")
HOSTILE: list[tuple[str, bytes, int, Reason]] = [
    ("type 0", packet(0x00, b""), V311, Reason.MALFORMED_PACKET),
    ("flags of SUBSCRIBE", packet(0x80, b"\0\1\0\1a\0"), V311, Reason.MALFORMED_PACKET),
    ("flags of PINGREQ", packet(0xC1, b""), V311, Reason.MALFORMED_PACKET),
    ("a body of PINGREQ", packet(0xC0, b"\0"), V311, Reason.MALFORMED_PACKET),
    ("QoS 3", packet(0x36, TOPIC_A + b"\0\1"), V311, Reason.MALFORMED_PACKET),
    ("DUP of QoS 0", packet(0x38, TOPIC_A), V311, Reason.MALFORMED_PACKET),
    ("packet id 0", packet(0x32, TOPIC_A + b"\0\0"), V311, Reason.MALFORMED_PACKET),
    ("no packet id", packet(0x32, TOPIC_A), V311, Reason.MALFORMED_PACKET),
    ("an empty PUBLISH", packet(0x30, b""), V311, Reason.MALFORMED_PACKET),
    ("a topic that is cut", packet(0x30, b"\0\5ab"), V311, Reason.MALFORMED_PACKET),
    ("no topic", packet(0x30, b"\0\0x"), V311, Reason.TOPIC_NAME_INVALID),
    ("a + in a topic", packet(0x30, prefixed(b"a/+")), V311, Reason.TOPIC_NAME_INVALID),
    ("a # in a topic", packet(0x30, prefixed(b"#")), V5, Reason.TOPIC_NAME_INVALID),
    ("no UTF-8", packet(0x30, prefixed(b"\xff\xfe")), V311, Reason.MALFORMED_PACKET),
    ("a surrogate", packet(0x30, prefixed(b"\xed\xa0\x80")), V311, Reason.MALFORMED_PACKET),
    ("an overlong form", packet(0x30, prefixed(b"\xc0\xaf")), V311, Reason.MALFORMED_PACKET),
    ("U+0000", packet(0x30, prefixed(b"a\0b")), V311, Reason.MALFORMED_PACKET),
    ("no filter", packet(0x82, b"\0\1"), V311, Reason.MALFORMED_PACKET),
    ("options of 3.1.1", packet(0x82, b"\0\1" + TOPIC_A + b"\4"), V311, Reason.MALFORMED_PACKET),
    ("options of 5", packet(0x82, b"\0\1\0" + TOPIC_A + b"\xc0"), V5, Reason.MALFORMED_PACKET),
    ("retain handling 3", packet(0x82, b"\0\1\0" + TOPIC_A + b"\x30"), V5,
     Reason.MALFORMED_PACKET),
    ("QoS 3 in SUBSCRIBE", packet(0x82, b"\0\1" + TOPIC_A + b"\3"), V311, Reason.MALFORMED_PACKET),
    ("no topic in UNSUBSCRIBE", packet(0xA2, b"\0\1"), V311, Reason.MALFORMED_PACKET),
    ("AUTH in 3.1.1", packet(0xF0, b""), V311, Reason.MALFORMED_PACKET),
    ("bytes behind a PUBACK", packet(0x40, b"\0\1\0\0"), V311, Reason.MALFORMED_PACKET),
    ("an unknown property", packet(0x30, TOPIC_A + b"\2\x7f\0"), V5, Reason.MALFORMED_PACKET),
    ("a property of another packet", packet(0x30, TOPIC_A + b"\3\x21\0\1"), V5,
     Reason.MALFORMED_PACKET),
    ("a property twice", packet(0x30, TOPIC_A + b"\4\1\1\1\1"), V5, Reason.PROTOCOL_ERROR),
    ("a flag of 2", packet(0x30, TOPIC_A + b"\2\1\2"), V5, Reason.PROTOCOL_ERROR),
    ("properties beyond the packet", packet(0x30, TOPIC_A + b"\x7f\1\1"), V5,
     Reason.MALFORMED_PACKET),
    ("a property beyond the properties", packet(0x30, TOPIC_A + b"\2\2\0\0\0\1"), V5,
     Reason.MALFORMED_PACKET),
    ("properties that are cut", packet(0x30, TOPIC_A), V5, Reason.MALFORMED_PACKET),
    ("a length of properties of five bytes", packet(0x30, TOPIC_A + b"\xff\xff\xff\xff\1"), V5,
     Reason.MALFORMED_PACKET),
    ("subscription identifier 0", packet(0x82, b"\0\1\2\x0b\0" + TOPIC_A + b"\0"), V5,
     Reason.PROTOCOL_ERROR),
    ("too many user properties",
     packet(0x30, TOPIC_A + varint(5 * (USER_PROPERTIES_MAX + 1))
            + b"\x26\0\0\0\0" * (USER_PROPERTIES_MAX + 1)), V5, Reason.QUOTA_EXCEEDED),
]  # fmt: skip


@pytest.mark.feature("F1")
@pytest.mark.parametrize(
    ("raw", "level", "reason"), [one[1:] for one in HOSTILE], ids=[one[0] for one in HOSTILE]
)
def test_what_no_client_sends_is_refused_with_its_reason(
    raw: bytes, level: int, reason: Reason
) -> None:
    error = refusal(raw, level)
    assert error.reason is reason
    assert error.problem


def connect(name: bytes = b"MQTT", level: int = 4, flags: int = 2, rest: bytes = b"") -> bytes:
    return packet(0x10, prefixed(name) + bytes([level, flags]) + b"\0\x0a" + rest)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (connect(b"MQIsdp", 3), Reason.UNSUPPORTED_VERSION),
        (connect(level=3), Reason.UNSUPPORTED_VERSION),
        (connect(level=6), Reason.UNSUPPORTED_VERSION),
        (connect(b"AMQP"), Reason.UNSUPPORTED_VERSION),
        (connect(flags=3), Reason.MALFORMED_PACKET),
        (connect(flags=0x1A), Reason.MALFORMED_PACKET),
        (connect(flags=0x1C), Reason.MALFORMED_PACKET),
        (connect(flags=0x42), Reason.MALFORMED_PACKET),
        (connect(rest=b"\0\1"), Reason.MALFORMED_PACKET),
        (connect(rest=b"\0\0x"), Reason.MALFORMED_PACKET),
        (connect(flags=6, rest=b"\0\0" + prefixed(b"a/#") + b"\0\0"), Reason.TOPIC_NAME_INVALID),
        (connect(level=5, rest=b"\3\x21\0\0\0\0"), Reason.PROTOCOL_ERROR),
        (connect(level=5, rest=b"\5\x27\0\0\0\0\0\0"), Reason.PROTOCOL_ERROR),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Reason.PROTOCOL_ERROR),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Reason.PROTOCOL_ERROR),
        (b"\xc0", Reason.PROTOCOL_ERROR),
    ],
)
def test_a_connect_that_is_none_is_refused(raw: bytes, reason: Reason) -> None:
    assert refusal(raw, 0).reason is reason


def test_an_empty_topic_of_version_5_is_left_to_the_connection() -> None:
    raw = packet(0x30, b"\0\0" + b"\3\x23\0\1" + b"x")
    assert parsed(raw) == [Publish(topic="", payload=b"x", properties={0x23: 1})]
