"""What flows through edgesync: readings, events, and the names of their kinds.

Times are nanoseconds since 1970 UTC (`time_ns`), as the source saw them. They are data: order is
`seq`, never a clock (I5).
"""

import enum
import hashlib
from typing import Final

import msgspec

from edgesync_transport.messages import Lane as Lane

Value = float | int | bool | str
# Of a reading: bytes of a text, characters of its entity's and its key's name, whole numbers.
TEXT_BYTES_MAX: Final = 16 * 1024
NAME_CHARS_MAX: Final = 255
I64: Final = 1 << 63
# A time further ahead than that of who stores it comes of a clock that is wrong.
CLOCK_SLACK_NS: Final = 60 * 10**9


class ValueType(enum.IntEnum):
    """How a series' values are stored; the numbers are those of the block format."""

    F64 = 0
    I64 = 1
    BOOL = 2
    TEXT = 3


class RecordKind(enum.IntEnum):
    """What a journal record holds."""

    EVENT = 1
    READINGS = 2
    CELLS = 3  # operations on keys (native/cells.pyx)
    WINDOWS = 4  # statistics of windows of time (docs/batch-format.md)
    RESENT = 5  # readings that may be known already (edgesync/resend.py)


class Strategy(enum.IntEnum):
    """How the siblings of a cell are ranked; a matter of reading, never of what is stored."""

    CRDT_MERGE = 0  # additions beat removals nobody had seen, amounts add up, else the last write
    LAST_WRITE_WINS = 1
    CLOUD_WINS = 2  # what was written at the hub counts before what was written at an edge
    EDGE_WINS = 3


class EventType(enum.IntEnum):
    """Kinds of event. Unknown numbers from a newer peer are kept and passed on."""

    LIFECYCLE = 1  # the edge itself: started, stopped, clock stepped, fork, rewind
    SERIES = 2  # a series is declared: body is JSON {entity, key, unit, type}
    LOSS = 3  # what a policy or a damaged disk took: body is JSON {lane, first, last, reason}
    TELEMETRY = 10
    ATTRIBUTES = 11
    ALARM = 12
    ENTITY = 13
    RELATION = 14
    RPC_REQUEST = 15
    RPC_RESPONSE = 16
    RULES = 17  # rule chains: from the hub a part of a bundle, from an edge what it runs
    RESEND = 18  # the hub asks for past readings: body is JSON {from_ns, to_ns, entity, key}
    SOURCE = 20  # a device went away or came back
    CUSTOM = 100


class Action(enum.IntEnum):
    NONE = 0
    ADDED = 1
    UPDATED = 2
    DELETED = 3
    TIMESERIES_UPDATED = 4
    TIMESERIES_DELETED = 5
    ATTRIBUTES_UPDATED = 6
    ATTRIBUTES_DELETED = 7
    ALARM_ACK = 8
    ALARM_CLEAR = 9
    RELATION_ADD_OR_UPDATE = 10
    RELATION_DELETED = 11
    RELATIONS_DELETED = 12
    RPC_CALL = 13
    CREDENTIALS_UPDATED = 14
    ASSIGNED_TO_EDGE = 15
    UNASSIGNED_FROM_EDGE = 16
    ASSIGNED_TO_CUSTOMER = 17
    UNASSIGNED_FROM_CUSTOMER = 18


class EntityType(enum.IntEnum):
    NONE = 0
    EDGE = 1
    DEVICE = 2
    ASSET = 3
    SITE = 4
    CUSTOMER = 5
    USER = 6
    DASHBOARD = 7
    RULE_CHAIN = 8
    PROFILE = 9


class Reading(msgspec.Struct, frozen=True, gc=False):
    """One value of one series: `entity` and `key` name it, e.g. ("meter0", "ActivePower")."""

    entity: str
    key: str
    value: Value
    time_ns: int
    unit: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable fact about an entity."""

    type: int
    action: int = 0
    entity_type: int = 0
    entity_id: str = ""
    body: bytes = b""
    time_ns: int
    created_ns: int = 0
    hlc: int = 0


def series_id(entity: str, key: str) -> int:
    """Return the 64-bit id of a series: the first 8 bytes of BLAKE2b over both names.

    A name's id is the same on every edge and after every restore, so a block means the same
    series wherever it is read.
    """
    digest = hashlib.blake2b(f"{entity}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
