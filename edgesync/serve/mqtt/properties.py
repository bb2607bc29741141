"""Properties of MQTT 5 (section 2.2.2): which there are, of what type, where.   [sans-IO]"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from edgesync.serve.mqtt.packets import BadPacket, Properties, Property, Reason, Type, Value

# One packet may hold thousands within its size; nobody needs them, and each costs an object.
USER_PROPERTIES_MAX: Final = 64
WILL: Final = 0  # in place of a packet's type

_CONNECT, _CONNACK, _PUBLISH = Type.CONNECT, Type.CONNACK, Type.PUBLISH
_ACKS: Final = (Type.PUBACK, Type.PUBREC, Type.PUBREL, Type.PUBCOMP)
_SUBSCRIBING: Final = (Type.SUBSCRIBE, Type.UNSUBSCRIBE)
_ANSWERS: Final = (*_ACKS, Type.SUBACK, Type.UNSUBACK, Type.DISCONNECT, Type.AUTH, _CONNACK)
_LISTED: Final = (*_ANSWERS, *_SUBSCRIBING, _CONNECT, _PUBLISH, WILL)


class Malformed(BadPacket):
    def __init__(self, problem: str) -> None:
        super().__init__(Reason.MALFORMED_PACKET, problem)


class Reader:
    """Takes values off the bytes of a packet; raises Malformed where they end too soon."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.end = len(data)

    @property
    def left(self) -> int:
        return self.end - self.at

    def take(self, count: int) -> bytes:
        at, after = self.at, self.at + count
        if after > self.end:
            raise Malformed("ends in the middle of a field")
        self.at = after
        return self.data[at:after]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def varint(self) -> int:
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.number(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Malformed("a length of more than four bytes")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return decoded(self.binary())

    def rest(self) -> bytes:
        return self.take(self.left)

    def flag(self) -> int:
        value = self.number(1)
        if value > 1:
            raise BadPacket(Reason.PROTOCOL_ERROR, f"a flag of {value}: only 0 and 1 are defined")
        return value


def decoded(raw: bytes) -> str:
    """Return text that MQTT allows (1.5.4): UTF-8 without surrogates and U+0000."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed("text that is not UTF-8") from error
    if "\0" in text:
        raise Malformed("text with U+0000")
    return text


def varint(value: int) -> bytes:
    found = bytearray()
    while True:
        value, byte = value >> 7, value & 127
        found.append(byte | (128 if value else 0))
        if not value:
            return bytes(found)


def prefixed(raw: bytes) -> bytes:
    return len(raw).to_bytes(2, "big") + raw


class _Kind(NamedTuple):
    read: Callable[[Reader], int | str | bytes]
    write: Callable[[Value], bytes]


def _written(size: int) -> Callable[[Value], bytes]:
    def write(value: Value) -> bytes:
        assert isinstance(value, int)
        return value.to_bytes(size, "big")

    return write


def _written_varint(value: Value) -> bytes:
    assert isinstance(value, int)
    return varint(value)


def _written_text(value: Value) -> bytes:
    assert isinstance(value, str)
    return prefixed(value.encode())


def _written_binary(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return prefixed(value)


def _unwritten(value: Value) -> bytes:
    raise AssertionError(value)


_FLAG = _Kind(Reader.flag, _written(1))
_U16 = _Kind(lambda reader: reader.number(2), _written(2))
_U32 = _Kind(lambda reader: reader.number(4), _written(4))
_VARINT = _Kind(Reader.varint, _written_varint)
_TEXT = _Kind(Reader.text, _written_text)
_BINARY = _Kind(Reader.binary, _written_binary)
_PAIR = _Kind(Reader.text, _unwritten)

TABLE: Final[Mapping[int, tuple[_Kind, tuple[int, ...]]]] = {
    Property.PAYLOAD_FORMAT: (_FLAG, (_PUBLISH, WILL)),
    Property.MESSAGE_EXPIRY: (_U32, (_PUBLISH, WILL)),
    Property.CONTENT_TYPE: (_TEXT, (_PUBLISH, WILL)),
    Property.RESPONSE_TOPIC: (_TEXT, (_PUBLISH, WILL)),
    Property.CORRELATION_DATA: (_BINARY, (_PUBLISH, WILL)),
    Property.SUBSCRIPTION_ID: (_VARINT, (_PUBLISH, Type.SUBSCRIBE)),
    Property.SESSION_EXPIRY: (_U32, (_CONNECT, _CONNACK, Type.DISCONNECT)),
    Property.ASSIGNED_CLIENT_ID: (_TEXT, (_CONNACK,)),
    Property.SERVER_KEEP_ALIVE: (_U16, (_CONNACK,)),
    Property.AUTHENTICATION_METHOD: (_TEXT, (_CONNECT, _CONNACK, Type.AUTH)),
    Property.AUTHENTICATION_DATA: (_BINARY, (_CONNECT, _CONNACK, Type.AUTH)),
    Property.REQUEST_PROBLEM_INFO: (_FLAG, (_CONNECT,)),
    Property.WILL_DELAY: (_U32, (WILL,)),
    Property.REQUEST_RESPONSE_INFO: (_FLAG, (_CONNECT,)),
    Property.RESPONSE_INFO: (_TEXT, (_CONNACK,)),
    Property.SERVER_REFERENCE: (_TEXT, (_CONNACK, Type.DISCONNECT)),
    Property.REASON_STRING: (_TEXT, _ANSWERS),
    Property.RECEIVE_MAXIMUM: (_U16, (_CONNECT, _CONNACK)),
    Property.TOPIC_ALIAS_MAXIMUM: (_U16, (_CONNECT, _CONNACK)),
    Property.TOPIC_ALIAS: (_U16, (_PUBLISH,)),
    Property.MAXIMUM_QOS: (_FLAG, (_CONNACK,)),
    Property.RETAIN_AVAILABLE: (_FLAG, (_CONNACK,)),
    Property.USER_PROPERTY: (_PAIR, _LISTED),
    Property.MAXIMUM_PACKET_SIZE: (_U32, (_CONNECT, _CONNACK)),
    Property.WILDCARD_AVAILABLE: (_FLAG, (_CONNACK,)),
    Property.SUBSCRIPTION_ID_AVAILABLE: (_FLAG, (_CONNACK,)),
    Property.SHARED_AVAILABLE: (_FLAG, (_CONNACK,)),
}
# Zero would mean nothing, and section 2.2.2 forbids it.
_NOT_ZERO: Final = (
    Property.RECEIVE_MAXIMUM, Property.MAXIMUM_PACKET_SIZE, Property.SUBSCRIPTION_ID,
)  # fmt: skip


def read_properties(reader: Reader, packet: int) -> Properties:
    """Return the properties at the reader's place, in a packet of type `packet`; or of a WILL."""
    length = reader.varint()
    if length > reader.left:
        raise Malformed("properties that are longer than their packet")
    found: Properties = {}
    users: list[tuple[str, str]] = []
    outer, reader.end = reader.end, reader.at + length
    while reader.left:
        number = reader.varint()
        if number not in TABLE or packet not in TABLE[number][1]:
            raise Malformed(f"property {number} does not belong into this packet")
        if number == Property.USER_PROPERTY:
            if len(users) == USER_PROPERTIES_MAX:
                raise BadPacket(
                    Reason.QUOTA_EXCEEDED, f"more than {USER_PROPERTIES_MAX} user properties"
                )
            users.append((reader.text(), reader.text()))
            continue
        if number in found:
            raise BadPacket(Reason.PROTOCOL_ERROR, f"property {number} twice")
        value = TABLE[number][0].read(reader)
        if value == 0 and number in _NOT_ZERO:
            raise BadPacket(Reason.PROTOCOL_ERROR, f"property {number} is zero")
        found[number] = value
    reader.end = outer
    if users:
        found[Property.USER_PROPERTY] = tuple(users)
    return found


def write_properties(properties: Properties) -> bytes:
    found = bytearray()
    for number, value in properties.items():
        if number == Property.USER_PROPERTY:
            assert isinstance(value, tuple)
            for name, text in value:
                found += varint(number) + prefixed(name.encode()) + prefixed(text.encode())
        else:
            found += varint(number) + TABLE[number][0].write(value)
    return varint(len(found)) + bytes(found)
