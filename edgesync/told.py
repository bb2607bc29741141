"""What a hub tells an edge that is neither state nor a call: readings, credentials.     [sans-IO]

Such an event is kept in the edge's journal as it came, but for readings, which are stored as such.
"""

from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from edgesync.entities.model import NAME_BYTES_MAX, checked_name
from edgesync.errors import EntityError, RecordError
from edgesync.model import CLOCK_SLACK_NS, NAME_CHARS_MAX, EntityType, Event, Reading

T = TypeVar("T")

READINGS_MAX: Final = 500
# Whose credentials a hub may set.
CREDENTIALS_KIND: Final = "device"
TYPES: Final[Mapping[str, EntityType]] = {
    "edge": EntityType.EDGE, "device": EntityType.DEVICE, "asset": EntityType.ASSET,
    "site": EntityType.SITE, "customer": EntityType.CUSTOMER, "user": EntityType.USER,
    "dashboard": EntityType.DASHBOARD, "rule_chain": EntityType.RULE_CHAIN,
    "device_profile": EntityType.PROFILE, "asset_profile": EntityType.PROFILE,
}  # fmt: skip

Key = Annotated[str, Meta(description="of a series", min_length=1, max_length=NAME_CHARS_MAX)]


class ToldReading(msgspec.Struct, frozen=True, kw_only=True):
    key: Key
    value: (
        bool
        | Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
        | float
        | Annotated[str, Meta(max_length=1024)]
    )
    time_ns: Annotated[int, Meta(description="nanoseconds since 1970 UTC", ge=0, le=(1 << 63) - 1)]
    unit: Annotated[str, Meta(max_length=32)] = ""


Several = Annotated[
    tuple[ToldReading, ...],
    Meta(description=f"up to {READINGS_MAX} of them", max_length=READINGS_MAX),
]


class Readings(msgspec.Struct, frozen=True, kw_only=True):
    """The body of TELEMETRY TIMESERIES_UPDATED; the event's entity is whose readings they are."""

    readings: Several = ()


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ENTITY CREDENTIALS_UPDATED; an empty hash takes the hub's token away."""

    token_sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""
    by: str = ""


def readings_of(event: Event, now_ns: int) -> list[Reading]:
    """Return the readings that an event from the hub brings; raises RecordError."""
    told = _parsed(event, Readings)
    if not event.entity_id:
        raise RecordError("readings of no entity")
    late_ns = now_ns + CLOCK_SLACK_NS
    return [
        Reading(
            entity=event.entity_id, key=one.key, value=one.value, unit=one.unit,
            time_ns=min(one.time_ns, late_ns),
        )
        for one in told.readings
    ]  # fmt: skip


def credentials_of(event: Event) -> Credentials:
    """Return the credentials that an event from the hub brings; raises RecordError."""
    try:
        # What no device can be called would be no file of devices, either.
        checked_name("device", event.entity_id, NAME_BYTES_MAX)
    except EntityError as error:
        raise RecordError(f"credentials of no device: {error}") from error
    return _parsed(event, Credentials)


def _parsed(event: Event, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(event.body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"an event that cannot be read: {error}") from error
