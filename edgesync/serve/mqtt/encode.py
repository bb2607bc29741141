"""Packets into bytes.   [sans-IO]"""

from collections.abc import Callable
from typing import Any, Final

from edgesync.serve.mqtt.packets import (
    V5,
    Acknowledgement,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Suback,
    Subscribe,
    TrackedPublish,
    Type,
    Unsuback,
    Unsubscribe,
)
from edgesync.serve.mqtt.properties import prefixed, varint, write_properties


def encode(packet: Packet, level: int) -> bytes:
    """Return a packet's bytes in a version (V311 or V5)."""
    first, write = _ENCODERS[type(packet)]
    body = write(packet, level)
    if isinstance(packet, Publish):
        first |= packet.dup << 3 | packet.qos << 1 | packet.retain
    return bytes((first,)) + varint(len(body)) + body


def _connect(packet: Connect, _level: int) -> bytes:
    is_v5, will = packet.level == V5, packet.will
    flags = packet.clean_start << 1
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
    flags |= (packet.username is not None) << 7 | (packet.password is not None) << 6
    found = prefixed(b"MQTT") + bytes((packet.level, flags))
    found += packet.keepalive_s.to_bytes(2, "big")
    if is_v5:
        found += write_properties(packet.properties)
    found += prefixed(packet.client_id.encode())
    if will is not None:
        if is_v5:
            found += write_properties(will.properties)
        found += prefixed(will.topic.encode()) + prefixed(will.payload)
    if packet.username is not None:
        found += prefixed(packet.username.encode())
    if packet.password is not None:
        found += prefixed(packet.password)
    return found


def _connack(packet: Connack, level: int) -> bytes:
    found = bytes((packet.session_present, packet.reason))
    return found + write_properties(packet.properties) if level == V5 else found


def _publish(packet: Publish, level: int) -> bytes:
    found = prefixed(packet.topic.encode())
    if packet.qos:
        found += packet.packet_id.to_bytes(2, "big")
    if level == V5:
        found += write_properties(packet.properties)
    return found + packet.payload


def _acknowledgement(packet: Acknowledgement, level: int) -> bytes:
    found = packet.packet_id.to_bytes(2, "big")
    if level == V5 and (packet.reason or packet.properties):
        found += bytes((packet.reason,))
        if packet.properties:
            found += write_properties(packet.properties)
    return found


def _subscribe(packet: Subscribe, level: int) -> bytes:
    found = packet.packet_id.to_bytes(2, "big")
    if level == V5:
        found += write_properties(packet.properties)
    for one in packet.filters:
        options = one.qos
        if level == V5:
            options |= one.no_local << 2 | one.retain_as_published << 3 | one.retain_handling << 4
        found += prefixed(one.topic.encode()) + bytes((options,))
    return found


def _suback(packet: Suback | Unsuback, level: int) -> bytes:
    found = packet.packet_id.to_bytes(2, "big")
    if level == V5:
        found += write_properties(packet.properties)
    return found + bytes(packet.reasons)


def _unsubscribe(packet: Unsubscribe, level: int) -> bytes:
    found = packet.packet_id.to_bytes(2, "big")
    if level == V5:
        found += write_properties(packet.properties)
    return found + b"".join(prefixed(topic.encode()) for topic in packet.topics)


def _reason(packet: Disconnect | Auth, level: int) -> bytes:
    if level != V5 or not (packet.reason or packet.properties):
        return b""
    found = bytes((packet.reason,))
    return found + write_properties(packet.properties) if packet.properties else found


def _nothing(_packet: Packet, _level: int) -> bytes:
    return b""


_ENCODERS: Final[dict[type, tuple[int, Callable[[Any, int], bytes]]]] = {
    Connect: (Type.CONNECT << 4, _connect),
    Connack: (Type.CONNACK << 4, _connack),
    Publish: (Type.PUBLISH << 4, _publish),
    TrackedPublish: (Type.PUBLISH << 4, _publish),
    Puback: (Type.PUBACK << 4, _acknowledgement),
    Pubrec: (Type.PUBREC << 4, _acknowledgement),
    Pubrel: (Type.PUBREL << 4 | 2, _acknowledgement),
    Pubcomp: (Type.PUBCOMP << 4, _acknowledgement),
    Subscribe: (Type.SUBSCRIBE << 4 | 2, _subscribe),
    Suback: (Type.SUBACK << 4, _suback),
    Unsubscribe: (Type.UNSUBSCRIBE << 4 | 2, _unsubscribe),
    Unsuback: (Type.UNSUBACK << 4, _suback),
    Pingreq: (Type.PINGREQ << 4, _nothing),
    Pingresp: (Type.PINGRESP << 4, _nothing),
    Disconnect: (Type.DISCONNECT << 4, _reason),
    Auth: (Type.AUTH << 4, _reason),
}
