"""Bytes into packets, with limits checked before memory is taken (I7).   [sans-IO]

Both ends' packets are decoded; which of them a server accepts is decided in connection.py.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    Auth,
    BadPacket,
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
    Reason,
    Suback,
    Subscribe,
    Type,
    Unsuback,
    Unsubscribe,
    Will,
)
from edgesync.serve.mqtt.properties import WILL, Malformed, Reader, decoded, read_properties

# Of somebody who has not said who he is yet; client id, user, password and a will fit.
CONNECT_BYTES_MAX: Final = 16 << 10
HEADER_BYTES_MAX: Final = 5
PROTOCOL_NAME: Final = "MQTT"
PROTOCOL_NAME_31: Final = "MQIsdp"
# Flags in the first byte (2.1.3): fixed for all packets but PUBLISH.
FLAGS: Final = {Type.PUBREL: 2, Type.SUBSCRIBE: 2, Type.UNSUBSCRIBE: 2}
WILDCARDS: Final = frozenset("+#")
AckT = TypeVar("AckT", Puback, Pubrec, Pubrel, Pubcomp)


class Parser:
    """Takes bytes as they arrive and returns whole packets, one at a time.

    packet_max  bytes of a packet's body; one that announces more raises BadPacket before it is
                read. The first packet may have CONNECT_BYTES_MAX at most.
    level       the version the peers speak; a server learns it from CONNECT
    """

    __slots__ = ("_data", "level", "packet_max")

    def __init__(self, packet_max: int, *, level: int = 0) -> None:
        self.packet_max = packet_max
        self.level = level
        self._data = bytearray()

    @property
    def held_bytes(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> Packet | None:
        """Return the next packet, None if it is not complete; raises BadPacket."""
        data = self._data
        if not self.level and data and data[0] != Type.CONNECT << 4:
            raise BadPacket(Reason.PROTOCOL_ERROR, "the first packet is no CONNECT")
        if len(data) < 2:
            return None
        length, at = data[1], 2
        if length > 127:
            found = self._long_length()
            if found is None:
                return None
            length, at = found
        most = self.packet_max if self.level else min(self.packet_max, CONNECT_BYTES_MAX)
        if length > most:
            raise BadPacket(
                Reason.PACKET_TOO_LARGE, f"a packet of {length} bytes; {most} are the most"
            )
        end = at + length
        if len(data) < end:
            return None
        first, body = data[0], bytes(data[at:end])
        del data[:end]
        packet = decode(first, body, self.level)
        if not self.level and isinstance(packet, Connect):
            self.level = packet.level
        return packet

    def _long_length(self) -> tuple[int, int] | None:
        length = 0
        for index in range(1, HEADER_BYTES_MAX):
            if index >= len(self._data):
                return None
            byte = self._data[index]
            length |= (byte & 127) << 7 * (index - 1)
            if byte < 128:
                return length, index + 1
        raise Malformed("a remaining length of more than four bytes")


def decode(first: int, body: bytes, level: int) -> Packet:
    """Return the packet that begins with byte `first`; raises BadPacket."""
    kind = first >> 4
    if kind == Type.PUBLISH:
        return _publish(first & 15, body, level)
    if kind not in _DECODERS:
        raise Malformed(f"there is no packet of type {kind}")
    if first & 15 != FLAGS.get(Type(kind), 0):
        raise Malformed(f"flags of {Type(kind).name}: {first & 15:04b}")
    reader = Reader(body)
    packet = _DECODERS[kind](reader, level)
    if reader.left:
        raise Malformed(f"{reader.left} bytes behind a {Type(kind).name}")
    return packet


def _publish(flags: int, body: bytes, level: int) -> Publish:
    qos = flags >> 1 & 3
    if qos == 3 or (flags & 8 and not qos):
        raise Malformed(f"flags of PUBLISH: {flags:04b}")
    at = 2 + int.from_bytes(body[:2], "big")
    if at > len(body) or len(body) < 2:
        raise Malformed("ends in the middle of a field")
    topic = decoded(body[2:at])
    if not WILDCARDS.isdisjoint(topic):
        raise BadPacket(Reason.TOPIC_NAME_INVALID, "a wildcard in the topic of a PUBLISH")
    packet_id = 0
    if qos:
        packet_id = int.from_bytes(body[at : at + 2], "big")
        at += 2
        if at > len(body):
            raise Malformed("ends in the middle of a field")
        if not packet_id:
            raise Malformed("packet id 0")
    properties: Properties = {}
    if level == V5:
        if at < len(body) and body[at] == 0:  # nearly always
            at += 1
        else:
            reader = Reader(body)
            reader.at = at
            properties = read_properties(reader, Type.PUBLISH)
            at = reader.at
    elif not topic:
        raise BadPacket(Reason.TOPIC_NAME_INVALID, "a PUBLISH without a topic")
    return Publish(
        topic=topic, payload=body[at:], qos=qos, retain=bool(flags & 1), dup=bool(flags & 8),
        packet_id=packet_id, properties=properties,
    )  # fmt: skip


def _connect(reader: Reader, level: int) -> Connect:
    name = reader.text()
    version = reader.number(1)
    if name not in (PROTOCOL_NAME, PROTOCOL_NAME_31):
        raise BadPacket(Reason.UNSUPPORTED_VERSION, "a CONNECT of another protocol")
    if name != PROTOCOL_NAME or version not in (V311, V5):
        raise BadPacket(
            Reason.UNSUPPORTED_VERSION, f"{name} version {version}; 4 (3.1.1) and 5 are spoken"
        )
    flags = reader.number(1)
    will_qos = flags >> 3 & 3
    has_will, has_user, has_password = flags & 4, flags & 128, flags & 64
    if flags & 1 or will_qos == 3 or (not has_will and flags & 0b111000):
        raise Malformed(f"flags of CONNECT: {flags:08b}")
    if version == V311 and has_password and not has_user:
        raise Malformed("a password without a user name")
    keepalive_s = reader.number(2)
    properties = read_properties(reader, Type.CONNECT) if version == V5 else {}
    client_id = reader.text()
    will = None
    if has_will:
        of_will = read_properties(reader, WILL) if version == V5 else {}
        topic, payload = reader.text(), reader.binary()
        if not topic or not WILDCARDS.isdisjoint(topic):
            raise BadPacket(Reason.TOPIC_NAME_INVALID, "the will's topic is empty or has wildcards")
        will = Will(
            topic=topic, payload=payload, qos=will_qos, retain=bool(flags & 32), properties=of_will
        )
    return Connect(
        level=version, client_id=client_id, clean_start=bool(flags & 2), keepalive_s=keepalive_s,
        will=will, username=reader.text() if has_user else None,
        password=reader.binary() if has_password else None, properties=properties,
    )  # fmt: skip


def _connack(reader: Reader, level: int) -> Connack:
    present, reason = reader.flag(), reader.number(1)
    properties = read_properties(reader, Type.CONNACK) if level == V5 else {}
    return Connack(session_present=bool(present), reason=reason, properties=properties)


def _packet_id(reader: Reader) -> int:
    packet_id = reader.number(2)
    if not packet_id:
        raise Malformed("packet id 0")
    return packet_id


def _acknowledgement(kind: Type, made: type[AckT]) -> Callable[[Reader, int], AckT]:
    def read(reader: Reader, level: int) -> AckT:
        packet_id = _packet_id(reader)
        reason = reader.number(1) if level == V5 and reader.left else 0
        properties = read_properties(reader, kind) if level == V5 and reader.left else {}
        return made(packet_id=packet_id, reason=reason, properties=properties)

    return read


def _subscribe(reader: Reader, level: int) -> Subscribe:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, Type.SUBSCRIBE) if level == V5 else {}
    filters: list[Filter] = []
    while reader.left or not filters:
        topic, options = reader.text(), reader.number(1)
        handling = options >> 4 & 3
        if options & 3 == 3 or handling == 3 or options >> (6 if level == V5 else 2):
            raise Malformed(f"options of a subscription: {options:08b}")
        filters.append(Filter(topic, options & 3, bool(options & 4), bool(options & 8), handling))
    return Subscribe(packet_id=packet_id, filters=tuple(filters), properties=properties)


def _suback(reader: Reader, level: int) -> Suback:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, Type.SUBACK) if level == V5 else {}
    return Suback(packet_id=packet_id, reasons=tuple(reader.rest()), properties=properties)


def _unsubscribe(reader: Reader, level: int) -> Unsubscribe:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, Type.UNSUBSCRIBE) if level == V5 else {}
    topics = [reader.text()]
    while reader.left:
        topics.append(reader.text())
    return Unsubscribe(packet_id=packet_id, topics=tuple(topics), properties=properties)


def _unsuback(reader: Reader, level: int) -> Unsuback:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, Type.UNSUBACK) if level == V5 else {}
    return Unsuback(packet_id=packet_id, reasons=tuple(reader.rest()), properties=properties)


def _disconnect(reader: Reader, level: int) -> Disconnect:
    reason, properties = _reason(reader, level, Type.DISCONNECT)
    return Disconnect(reason=reason, properties=properties)


def _auth(reader: Reader, level: int) -> Auth:
    if level != V5:
        raise Malformed("there is no AUTH in version 3.1.1")
    reason, properties = _reason(reader, level, Type.AUTH)
    return Auth(reason=reason, properties=properties)


def _reason(reader: Reader, level: int, kind: Type) -> tuple[int, Properties]:
    reason = reader.number(1) if level == V5 and reader.left else 0
    properties = read_properties(reader, kind) if level == V5 and reader.left else {}
    return reason, properties


_DECODERS: Final[dict[int, Callable[[Reader, int], Packet]]] = {
    Type.CONNECT: _connect,
    Type.CONNACK: _connack,
    Type.PUBACK: _acknowledgement(Type.PUBACK, Puback),
    Type.PUBREC: _acknowledgement(Type.PUBREC, Pubrec),
    Type.PUBREL: _acknowledgement(Type.PUBREL, Pubrel),
    Type.PUBCOMP: _acknowledgement(Type.PUBCOMP, Pubcomp),
    Type.SUBSCRIBE: _subscribe,
    Type.SUBACK: _suback,
    Type.UNSUBSCRIBE: _unsubscribe,
    Type.UNSUBACK: _unsuback,
    Type.PINGREQ: lambda _reader, _level: Pingreq(),
    Type.PINGRESP: lambda _reader, _level: Pingresp(),
    Type.DISCONNECT: _disconnect,
    Type.AUTH: _auth,
}
