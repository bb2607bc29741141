"""Control packets, reason codes and properties of MQTT 3.1.1 and 5.0 as data.   [sans-IO]

One struct a packet serves both versions; what version 3.1.1 does not have is at its default there.
Properties are a dict from identifier to value; user properties (38) are a tuple of pairs.
"""

import enum
from typing import Final

import msgspec

V311: Final = 4
V5: Final = 5

Value = int | str | bytes | tuple[tuple[str, str], ...]
Properties = dict[int, Value]


class Type(enum.IntEnum):
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Reason(enum.IntEnum):
    """Reason codes of version 5 (section 2.4); from 0x80 on they are failures."""

    SUCCESS = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL = 0x04
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC = 0x83
    UNSUPPORTED_VERSION = 0x84
    CLIENT_ID_NOT_VALID = 0x85
    BAD_CREDENTIALS = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_ID_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    QUOTA_EXCEEDED = 0x97
    PAYLOAD_FORMAT_INVALID = 0x99
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1


# Return codes of version 3.1.1 (section 3.2.2.3) for reasons a connection is refused.
RETURN_CODES: Final = {
    Reason.SUCCESS: 0,
    Reason.UNSUPPORTED_VERSION: 1,
    Reason.CLIENT_ID_NOT_VALID: 2,
    Reason.BAD_CREDENTIALS: 4,
    Reason.NOT_AUTHORIZED: 5,
}
SERVER_UNAVAILABLE_311: Final = 3
SUBSCRIPTION_REFUSED_311: Final = 0x80


class Property(enum.IntEnum):
    """Identifiers of properties (section 2.2.2.2)."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    AUTHENTICATION_DATA = 0x16
    REQUEST_PROBLEM_INFO = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE_INFO = 0x19
    RESPONSE_INFO = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_ID_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


class BadPacket(Exception):
    """Bytes that are no packet, or a packet that may not be sent; the connection ends."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason
        self.problem = problem


class _Struct(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    pass


class Will(_Struct, frozen=True):
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = {}


class Connect(_Struct, frozen=True):
    """level is 4 for version 3.1.1, 5 for version 5."""

    level: int = V5
    client_id: str = ""
    clean_start: bool = True
    keepalive_s: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = None
    properties: Properties = {}


class Connack(_Struct, frozen=True):
    """reason is a return code where the version is 3.1.1."""

    session_present: bool = False
    reason: int = 0
    properties: Properties = {}


class Publish(_Struct, frozen=True):
    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0
    properties: Properties = {}


class TrackedPublish(Publish, frozen=True):
    """... of a server, whose acknowledgement somebody waits for under `ticket`."""

    ticket: int = 0


class Acknowledgement(_Struct, frozen=True):
    """PUBACK, PUBREC, PUBREL and PUBCOMP."""

    packet_id: int
    reason: int = 0
    properties: Properties = {}


class Puback(Acknowledgement, frozen=True):
    pass


class Pubrec(Acknowledgement, frozen=True):
    pass


class Pubrel(Acknowledgement, frozen=True):
    pass


class Pubcomp(Acknowledgement, frozen=True):
    pass


class Filter(msgspec.Struct, frozen=True, gc=False):
    """A topic filter and how it is subscribed to."""

    topic: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


class Subscribe(_Struct, frozen=True):
    packet_id: int
    filters: tuple[Filter, ...]
    properties: Properties = {}


class Suback(_Struct, frozen=True):
    packet_id: int
    reasons: tuple[int, ...]
    properties: Properties = {}


class Unsubscribe(_Struct, frozen=True):
    packet_id: int
    topics: tuple[str, ...]
    properties: Properties = {}


class Unsuback(_Struct, frozen=True):
    """reasons is empty where the version is 3.1.1."""

    packet_id: int
    reasons: tuple[int, ...] = ()
    properties: Properties = {}


class Pingreq(_Struct, frozen=True):
    pass


class Pingresp(_Struct, frozen=True):
    pass


class Disconnect(_Struct, frozen=True):
    reason: int = 0
    properties: Properties = {}


class Auth(_Struct, frozen=True):
    reason: int = 0
    properties: Properties = {}


Packet = (
    Connect | Connack | Publish | Puback | Pubrec | Pubrel | Pubcomp | Subscribe | Suback
    | Unsubscribe | Unsuback | Pingreq | Pingresp | Disconnect | Auth
)  # fmt: skip
