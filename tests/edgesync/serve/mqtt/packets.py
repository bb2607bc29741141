"""Strategies for packets, and the samples of the golden file."""

from collections.abc import Mapping
from typing import Final

from hypothesis import strategies as st

from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Filter,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    Type,
    Unsuback,
    Unsubscribe,
    Will,
)
from edgesync.serve.mqtt.properties import TABLE, WILL

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
TOPIC = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0+#"), min_size=1, max_size=20
)
BINARY = st.binary(max_size=20)
PACKET_ID = st.integers(1, 65_535)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3).map(tuple)
# By what a property's kind writes.
VALUES: Final[Mapping[str, st.SearchStrategy[object]]] = {
    "_FLAG": st.integers(0, 1),
    "_U16": st.integers(1, 65_535),
    "_U32": st.integers(1, 2**32 - 1),
    "_VARINT": st.integers(1, 268_435_455),
    "_TEXT": TEXT,
    "_BINARY": BINARY,
    "_PAIR": PAIRS,
}


def _strategy(number: int) -> st.SearchStrategy[object]:
    from edgesync.serve.mqtt import properties

    kind = TABLE[number][0]
    (name,) = [name for name in VALUES if getattr(properties, name) is kind]
    return VALUES[name]


def properties_of(packet: int, level: int) -> st.SearchStrategy[Properties]:
    if level != V5:
        return st.just({})
    known = {number: _strategy(number) for number, (_, where) in TABLE.items() if packet in where}
    return st.fixed_dictionaries({}, optional=known)  # type: ignore[arg-type]


def packets(level: int) -> st.SearchStrategy[Packet]:
    """Return packets of every type that a version has."""

    def properties(kind: Type) -> st.SearchStrategy[Properties]:
        return properties_of(kind, level)

    reason = st.integers(0, 255) if level == V5 else st.just(0)
    will = st.builds(
        Will, topic=TOPIC, payload=BINARY, qos=st.integers(0, 2), retain=st.booleans(),
        properties=properties_of(WILL, level),
    )  # fmt: skip
    user = st.one_of(
        st.fixed_dictionaries({}, optional={"username": TEXT}),
        st.fixed_dictionaries({"username": TEXT, "password": BINARY}),
    )
    connect = user.flatmap(
        lambda known: st.builds(
            Connect, level=st.just(level), client_id=TEXT, clean_start=st.booleans(),
            keepalive_s=st.integers(0, 65_535), will=st.none() | will,
            properties=properties(Type.CONNECT),
            **{name: st.just(value) for name, value in known.items()},
        )
    )  # fmt: skip
    publish = st.integers(0, 2).flatmap(
        lambda qos: st.builds(
            Publish, topic=TOPIC, payload=BINARY, qos=st.just(qos), retain=st.booleans(),
            dup=st.booleans() if qos else st.just(False),
            packet_id=PACKET_ID if qos else st.just(0), properties=properties(Type.PUBLISH),
        )
    )  # fmt: skip
    options = (
        st.builds(Filter, TEXT, st.integers(0, 2))
        if level == V311
        else st.builds(
            Filter, TEXT, st.integers(0, 2), st.booleans(), st.booleans(), st.integers(0, 2)
        )
    )
    reasons = st.lists(st.integers(0, 255), min_size=1, max_size=4).map(tuple)
    acknowledgements = [
        st.builds(made, packet_id=PACKET_ID, reason=reason, properties=properties(kind))
        for made, kind in (
            (Puback, Type.PUBACK), (Pubrec, Type.PUBREC), (Pubrel, Type.PUBREL),
            (Pubcomp, Type.PUBCOMP),
        )
    ]  # fmt: skip
    found = [
        connect,
        st.builds(
            Connack, session_present=st.booleans(), reason=st.integers(0, 255),
            properties=properties(Type.CONNACK),
        ),
        publish,
        *acknowledgements,
        st.builds(
            Subscribe, packet_id=PACKET_ID,
            filters=st.lists(options, min_size=1, max_size=4).map(tuple),
            properties=properties(Type.SUBSCRIBE),
        ),
        st.builds(
            Suback, packet_id=PACKET_ID, reasons=reasons, properties=properties(Type.SUBACK)
        ),
        st.builds(
            Unsubscribe, packet_id=PACKET_ID,
            topics=st.lists(TEXT, min_size=1, max_size=4).map(tuple),
            properties=properties(Type.UNSUBSCRIBE),
        ),
        st.builds(
            Unsuback, packet_id=PACKET_ID, reasons=reasons if level == V5 else st.just(()),
            properties=properties(Type.UNSUBACK),
        ),
        st.just(Pingreq()),
        st.just(Pingresp()),
        st.builds(Disconnect, reason=reason, properties=properties(Type.DISCONNECT)),
    ]  # fmt: skip
    if level == V5:
        found.append(st.builds(Auth, reason=reason, properties=properties(Type.AUTH)))
    return st.one_of(*found)


# One of each, for the golden file and for the fuzzer to begin with.
SAMPLES: Final[Mapping[str, tuple[int, Packet]]] = {
    "connect-311": (V311, Connect(
        level=V311, client_id="scale-7", clean_start=False, keepalive_s=120, username="A1_TOKEN",
        will=Will(topic="v1/devices/me/telemetry", payload=b'{"gone":true}', qos=1),
    )),
    "connect-5": (V5, Connect(
        client_id="scale-7", keepalive_s=30, username="scale", password=b"\x00secret",
        properties={17: 3600, 33: 20, 39: 100_000, 38: (("a", "b"), ("a", "ü"))},
        will=Will(topic="t", payload=b"", retain=True, properties={24: 10, 1: 1}),
    )),
    "connack-311": (V311, Connack(session_present=True, reason=0)),
    "connack-5": (V5, Connack(reason=0x86, properties={31: "wrong password", 18: "x"})),
    "publish-0": (V311, Publish(topic="v1/devices/me/telemetry", payload=b'{"t":4.25}')),
    "publish-1": (V311, Publish(topic="a", payload=b"x" * 200, qos=1, dup=True, packet_id=7)),
    "publish-2": (V5, Publish(
        topic="ä/b", payload=b"\xff", qos=2, retain=True, packet_id=65_535,
        properties={2: 60, 8: "answers", 9: b"\x01\x02", 11: 128},
    )),
    "puback-311": (V311, Puback(packet_id=7)),
    "puback-5": (V5, Puback(packet_id=7, reason=0x99, properties={31: "payload: is no object"})),
    "pubrec-5": (V5, Pubrec(packet_id=7, reason=0x97)),
    "pubrel-311": (V311, Pubrel(packet_id=7)),
    "pubcomp-5": (V5, Pubcomp(packet_id=7, reason=0x92)),
    "subscribe-311": (V311, Subscribe(packet_id=2, filters=(
        Filter("v1/devices/me/attributes", 1), Filter("v1/devices/me/rpc/request/+", 2)))),
    "subscribe-5": (V5, Subscribe(
        packet_id=2, filters=(Filter("#", 1, True, True, 2),), properties={11: 300})),
    "suback-311": (V311, Suback(packet_id=2, reasons=(1, 0x80))),
    "suback-5": (V5, Suback(packet_id=2, reasons=(1, 0x8F))),
    "unsubscribe-311": (V311, Unsubscribe(packet_id=3, topics=("a", "b/+"))),
    "unsuback-311": (V311, Unsuback(packet_id=3)),
    "unsuback-5": (V5, Unsuback(packet_id=3, reasons=(0, 0x11))),
    "pingreq": (V311, Pingreq()),
    "pingresp": (V311, Pingresp()),
    "disconnect-311": (V311, Disconnect()),
    "disconnect-5": (V5, Disconnect(reason=0x8E, properties={31: "taken over"})),
    "auth-5": (V5, Auth(reason=0x18, properties={21: "SCRAM"})),
}  # fmt: skip
