"""A call of a device and what is told of it, as both sides know it.                    [sans-IO]

    QUEUED     on disk, at the hub or at the edge; the device was not sent it
    SENT       written to the device's connection; whether it arrived is not known
    DELIVERED  the device has acknowledged it; the end of a call that wants no answer
    ANSWERED   the device has answered, with a value or an error
    EXPIRED    given up before that: its time has passed, or its fate cannot be known

A state is never left for an earlier one, and the last two are final. An answer that comes after a
call has expired is kept with it, and the state stays.
"""

import enum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from edgesync.errors import RecordError
from edgesync.model import Action, EntityType, Event, EventType

METHOD_CHARS_MAX: Final = 255
# An event holds no more, and much of it may be quoted.
PARAMS_BYTES_MAX: Final = 48 * 1024
ANSWER_BYTES_MAX: Final = 48 * 1024
DEPTH_MAX: Final = 64
TTL_S_MAX: Final = 7 * 86_400.0
# The edge itself, as a device that is called, and what it can be asked for.
SELF: Final = "@edge"
SYNC: Final = "sync"
NULL: Final = Raw(b"null")
NO_ANSWER: Final = Raw()


class State(enum.StrEnum):
    QUEUED = "QUEUED"
    SENT = "SENT"
    DELIVERED = "DELIVERED"
    ANSWERED = "ANSWERED"
    EXPIRED = "EXPIRED"

    @property
    def rank(self) -> int:
        return _RANKS[self]

    def is_final(self, *, one_way: bool) -> bool:
        """Whether nothing more can happen to a call, but for a late answer."""
        last = State.DELIVERED if one_way else State.ANSWERED
        return self.rank >= last.rank


_RANKS: Final = {
    State.QUEUED: 0, State.SENT: 1, State.DELIVERED: 2, State.ANSWERED: 3, State.EXPIRED: 3,
}  # fmt: skip

Id = Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")]
Method = Annotated[str, Meta(min_length=1, max_length=METHOD_CHARS_MAX)]
Nanoseconds = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an RPC_REQUEST from the hub; the event's entity is the device."""

    id: Id
    method: Method
    params: Raw = NULL
    one_way: bool = False
    expires_ns: Nanoseconds


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an RPC_RESPONSE from an edge: a call has come to `state`.

    answer   as the device gave it, b"" for none; of a device that answered with an error, that
    reason   why a call has expired
    """

    id: Id
    state: State
    at_ns: Nanoseconds
    method: str = ""
    one_way: bool = False
    answer: Raw = NO_ANSWER
    error: str = ""
    reason: str = ""


def request_event(device: str, request: Request, now_ns: int) -> Event:
    return Event(
        type=EventType.RPC_REQUEST, action=Action.RPC_CALL, entity_type=EntityType.DEVICE,
        entity_id=device, body=msgspec.json.encode(request), time_ns=now_ns, created_ns=now_ns,
    )  # fmt: skip


def report_event(device: str, report: Report) -> Event:
    return Event(
        type=EventType.RPC_RESPONSE, action=Action.RPC_CALL, entity_type=EntityType.DEVICE,
        entity_id=device, body=msgspec.json.encode(report), time_ns=report.at_ns,
    )  # fmt: skip


def parse_request(body: bytes) -> Request:
    """Return the call that an event from the hub holds; raises RecordError."""
    try:
        found = msgspec.json.decode(body, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"no call of a device: {error}") from error
    if not is_json(bytes(found.params)):
        raise RecordError(f"no call of a device: params are no JSON, {DEPTH_MAX} deep at most")
    return found


def parse_report(body: bytes) -> Report | None:
    """Return what an event of an edge tells of a call, None for one that tells nothing."""
    try:
        found = msgspec.json.decode(body, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    answer = bytes(found.answer)
    return None if answer and not is_json(answer) else found


def is_json(raw: bytes) -> bool:
    """Whether a text is JSON that everybody on its way takes: neither too long nor too deep."""
    if len(raw) > ANSWER_BYTES_MAX:
        return False
    try:
        return _is_flat(msgspec.json.decode(raw), DEPTH_MAX)
    except (msgspec.DecodeError, RecursionError):
        return False


def _is_flat(value: Any, left: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return left > 0 and all(_is_flat(one, left - 1) for one in inner)
