"""What can be asked: one struct per question, read from path and query."""

import base64
import re
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from hubd.api.errors import ApiError
from hubd.api.redis_json import Argument, Blob

T = TypeVar("T")

PAGE_MAX = 1000
POINTS_MAX = 5000
I64 = range(-(1 << 63), 1 << 63)

Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # what SQL can hold

EdgeName = Annotated[str, Meta(description="name of an edge", min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=256)]
Tenant = Annotated[
    str,
    Meta(description="whose; for tokens of the hub's own settings, else left out", max_length=63),
]
Limit = Annotated[int, Meta(description=f"1 to {PAGE_MAX} rows", ge=1, le=PAGE_MAX)]
Points = Annotated[int, Meta(description=f"1 to {POINTS_MAX} points", ge=1, le=POINTS_MAX)]
Cursor = Annotated[
    str, Meta(description="`next` of the page before, with the same question", max_length=128)
]
Time = Annotated[
    str,
    Meta(
        description="nanoseconds since 1970 UTC, ISO 8601 with a zone, or relative like -15m, -2h",
        max_length=64,
    ),
]
Lane = Annotated[
    Literal["critical", "normal", "bulk"], Meta(description="critical, normal or bulk")
]
Status = Annotated[
    Literal["stored", "dead", "lost", "unreadable"],
    Meta(description="stored, dead, lost or unreadable"),
]
Kind = Annotated[
    str, Meta(description="a name like alarm, or its number", min_length=1, max_length=64)
]
Width = Annotated[int, Meta(description="seconds, 1 to 86400", ge=1, le=86_400)]
Resolution = Annotated[Literal["auto", "raw", "1m", "1h"], Meta(description="auto, raw, 1m or 1h")]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: a parameter nobody knows is a mistake to be told about.

    tenant   is read by `Contexts`, for every question alike
    """

    tenant: Tenant | None = None


class Nothing(Params, frozen=True, kw_only=True):
    pass


class OneEdge(Params, frozen=True, kw_only=True):
    edge: EdgeName


class EdgesPage(Params, frozen=True, kw_only=True):
    limit: Limit = PAGE_MAX
    after: Cursor | None = None


class SeriesPage(Params, frozen=True, kw_only=True):
    edge: EdgeName
    limit: Limit = 200
    after: Cursor | None = None


class HistoryPage(Params, frozen=True, kw_only=True):
    edge: EdgeName
    entity: Annotated[Text, Meta(description="entity of the series")]
    key: Annotated[Text, Meta(description="key of the series")]
    from_: Time | None = msgspec.field(name="from", default=None)
    to: Time | None = None
    resolution: Resolution = "auto"
    limit: Points = 1000
    after: Cursor | None = None


class WindowsPage(Params, frozen=True, kw_only=True):
    edge: EdgeName
    entity: Annotated[Text, Meta(description="entity of the series")]
    key: Annotated[Text, Meta(description="key of the series")]
    width_s: Width = 60
    merge_s: Width | None = None
    from_: Time | None = msgspec.field(name="from", default=None)
    to: Time | None = None
    limit: Limit = 100
    after: Cursor | None = None


class EventQuestion(Params, frozen=True, kw_only=True):
    """Which events are wanted, and behind which the page begins."""

    edge: EdgeName | None = None
    type: Kind | None = None
    action: Kind | None = None
    entity: Annotated[Text, Meta(description="id of an entity")] | None = None
    lane: Lane | None = None
    status: Status | None = None
    text: Annotated[Text, Meta(description="found in body, entity or reason")] | None = None
    from_: Time | None = msgspec.field(name="from", default=None)
    to: Time | None = None
    after: Cursor | None = None


class FleetEventsPage(EventQuestion, frozen=True, kw_only=True):
    limit: Limit = 100


class EventsPage(FleetEventsPage, frozen=True, kw_only=True):
    edge: EdgeName


class DownlinkPage(Params, frozen=True, kw_only=True):
    edge: EdgeName | None = None
    limit: Limit = 100
    after: Cursor | None = None


class LinkEventsPage(Params, frozen=True, kw_only=True):
    edge: EdgeName | None = None
    limit: Limit = 100
    after: Cursor | None = None


KEY_CHARS_MAX = 1024
KeyCursor = Annotated[
    str,
    Meta(description="`next` of the page before, with the same question", max_length=KEY_CHARS_MAX),
]


class KeysPage(Params, frozen=True, kw_only=True):
    prefix: Annotated[Text, Meta(description="what the keys begin with")] = ""
    limit: Limit = 100
    after: KeyCursor | None = None


class ChangesPage(Params, frozen=True, kw_only=True):
    prefix: Annotated[Text, Meta(description="what the keys begin with")] = ""
    limit: Limit = 100
    after: KeyCursor | None = None
    wait_s: Annotated[
        float, Meta(description="how long to wait for a change, 0 to 25", ge=0, le=25)
    ] = 0.0


class OneKey(Params, frozen=True, kw_only=True):
    key: Annotated[
        str, Meta(description="1 to 500 bytes of a key", min_length=1, max_length=KEY_CHARS_MAX)
    ]
    encoding: Annotated[
        Literal["text", "base64"],
        Meta(description="text, or base64 (URL-safe) for a key that is no UTF-8"),
    ] = "text"
    limit: Limit = 100
    after: KeyCursor | None = None


class ConflictsPage(Params, frozen=True, kw_only=True):
    status: (
        Annotated[
            Literal["open", "resolved", "expired"], Meta(description="open, resolved or expired")
        ]
        | None
    ) = None
    prefix: Annotated[Text, Meta(description="what the keys begin with")] = ""
    limit: Limit = 100
    after: Cursor | None = None


class OneConflict(Params, frozen=True, kw_only=True):
    id: Annotated[int, Meta(description="number of a conflict, from 1 on", ge=1, le=(1 << 63) - 1)]


CallState = Annotated[
    Literal["QUEUED", "SENT", "DELIVERED", "ANSWERED", "EXPIRED"],
    Meta(description="QUEUED, SENT, DELIVERED, ANSWERED or EXPIRED"),
]
DeviceName = Annotated[str, Meta(description="name of a device", min_length=1, max_length=255)]
CallId = Annotated[
    str, Meta(description="id of a call: letters, digits, _ . -", pattern="^[A-Za-z0-9_.-]{1,64}$")
]
WaitS = Annotated[
    float, Meta(description="how long to wait until it is final, 0 to 25 s", ge=0, le=25)
]


BY_CHARS_MAX = 255
By = Annotated[
    str,
    Meta(description="who does it; of a user their own name, always", max_length=BY_CHARS_MAX),
]


class CallsPage(Params, frozen=True, kw_only=True):
    edge: EdgeName | None = None
    device: DeviceName | None = None
    state: CallState | None = None
    limit: Limit = 100
    after: Cursor | None = None


class EdgeCallsPage(CallsPage, frozen=True, kw_only=True):
    edge: EdgeName


class OneCall(Params, frozen=True, kw_only=True):
    call: CallId
    wait_s: WaitS = 0.0


SeriesId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class LiveParams(Params, frozen=True, kw_only=True):
    edge: EdgeName | None = None
    series: Annotated[
        tuple[SeriesId, ...],
        Meta(description="ids of up to 64 series, 16 hex digits each", max_length=64),
    ] = ()


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a POST brings, as JSON."""


class NoBody(Body, frozen=True, kw_only=True):
    """Nothing, or `{}`."""


Request = Annotated[
    tuple[Argument, ...],
    Meta(
        description='a command and its arguments: text, numbers, or {"base64": "…"}', min_length=1
    ),
]


class Commands(Body, frozen=True, kw_only=True):
    """Either one command or several that are carried out one after the other, nothing between."""

    command: Request | None = None
    commands: Annotated[tuple[Request, ...], Meta(description="up to 1000 commands")] | None = None


class CallBody(Body, frozen=True, kw_only=True):
    """A call of a device. With an `id` it may be sent again, and is made once."""

    device: DeviceName
    method: Annotated[str, Meta(description="1 to 255 characters", min_length=1, max_length=255)]
    params: Annotated[Any, Meta(description="any JSON")] = None
    ttl_s: Annotated[
        float, Meta(description="seconds until it is given up, 1 to 604800", ge=1, le=604_800)
    ] = 60.0
    one_way: Annotated[bool, Meta(description="whether no answer is wanted")] = False
    id: CallId | None = None
    by: By = "hub"
    wait_s: WaitS = 0.0


class Choice(Body, frozen=True, kw_only=True):
    """`dot` takes the write `number` of `replica`; `value` is for strings and fields of hashes."""

    choice: Annotated[Literal["winner", "dot", "value"], Meta(description="winner, dot or value")]
    replica: Annotated[int, Meta(description="of a side of the conflict", ge=0)] | None = None
    number: Annotated[int, Meta(description="of a side of the conflict", ge=0)] | None = None
    value: Annotated[Blob, Meta(description='text, or {"base64": "…"}')] | None = None


_RELATIVE = re.compile(r"^-(\d{1,9})(s|m|h|d)$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_time(text: str | None, default_ns: int, now_ns: int, field: str) -> int:
    """A `Time` as nanoseconds since 1970 UTC; raises ApiError."""
    if text is None:
        return default_ns
    try:
        if relative := _RELATIVE.match(text):
            time_ns = now_ns - int(relative.group(1)) * _SECONDS[relative.group(2)] * 10**9
        else:
            time_ns = int(text) if re.fullmatch(r"-?\d{1,19}", text) else _from_iso(text)
    except (ValueError, OverflowError):
        time_ns = 1 << 63
    if time_ns not in I64:
        remedy = "nanoseconds since 1970 UTC, 2026-01-31T12:00:00Z, or relative like -15m"
        raise ApiError(400, f"`{field}` is not a time", field=field, remedy=remedy)
    return time_ns


def _from_iso(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    seconds = int(moment.replace(microsecond=0).timestamp())
    return seconds * 10**9 + moment.microsecond * 1000


def make_cursor(*parts: int | str | bytes) -> str:
    """An opaque place to go on from."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(parts)).decode().rstrip("=")


def read_cursor(text: str | None, shape: type[T], start: T) -> T:
    """What `make_cursor` was given, `start` without a cursor; raises ApiError."""
    if text is None:
        return start
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.msgpack.decode(data, type=shape)
    except ValueError as error:
        raise ApiError(
            400, "`after` is not a cursor", field="after", remedy="use `next` of a page as it is"
        ) from error
