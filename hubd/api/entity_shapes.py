"""What is asked and answered about entities, their attributes, relations and alarms."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgesync.entities.claims import SECRET_CHARS_MAX
from hubd.api.params import Body, By, EdgeName, KeyCursor, Limit, Params

Kind = Annotated[str, Meta(description="such as device or asset", min_length=1, max_length=32)]
Name = Annotated[str, Meta(description="name of an entity", min_length=1, max_length=255)]
Scope = Annotated[
    Literal["client", "shared", "server"], Meta(description="client, shared or server")
]
Severity = Annotated[
    Literal["CRITICAL", "MAJOR", "MINOR", "WARNING", "INDETERMINATE"],
    Meta(description="CRITICAL, MAJOR, MINOR, WARNING or INDETERMINATE"),
]
AlarmId = Annotated[
    str, Meta(description="id of an alarm, 24 hex digits", pattern="^[0-9a-f]{24}$")
]


# -- asked ---------------------------------------------------------------------------------------


class EntitiesPage(Params, frozen=True, kw_only=True):
    edge: EdgeName
    kind: Kind | None = None
    limit: Limit = 100
    after: KeyCursor | None = None


class OneEntity(Params, frozen=True, kw_only=True):
    edge: EdgeName
    entity: Name
    kind: Kind = "device"


class OfEdge(Params, frozen=True, kw_only=True):
    edge: EdgeName


class FleetAlarmsPage(Params, frozen=True, kw_only=True):
    status: (
        Annotated[Literal["active", "cleared"], Meta(description="active or cleared")] | None
    ) = None
    acked: Annotated[bool, Meta(description="true or false")] | None = None
    limit: Limit = 100
    after: KeyCursor | None = None


class AlarmsPage(FleetAlarmsPage, frozen=True, kw_only=True):
    edge: EdgeName


class OneAlarm(Params, frozen=True, kw_only=True):
    edge: EdgeName
    id: AlarmId


class EntityBody(Body, frozen=True, kw_only=True):
    entity: Name
    kind: Kind = "device"


class SaveEntity(EntityBody, frozen=True, kw_only=True):
    """`fields` that are null are removed, the others are set; those not named stay."""

    fields: dict[str, Any] = msgspec.field(default_factory=dict)


class SetAttributes(EntityBody, frozen=True, kw_only=True):
    """Client attributes are what the device reports: they can be deleted here, and not set."""

    scope: Scope
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    delete: tuple[str, ...] = ()


class Claim(EntityBody, frozen=True, kw_only=True):
    """Of a device that offers itself, by whoever knows its secret."""

    secret: Annotated[
        str, Meta(description="what the device says", max_length=SECRET_CHARS_MAX)
    ] = ""
    by: By = "hub"


class Relate(EntityBody, frozen=True, kw_only=True):
    """From this entity to another one of the edge."""

    type: Annotated[str, Meta(description="such as Contains", min_length=1, max_length=64)]
    to: Name
    to_kind: Kind = "device"
    data: Any = None


class RaiseAlarm(EntityBody, frozen=True, kw_only=True):
    type: Annotated[str, Meta(description="what is wrong", min_length=1, max_length=255)]
    severity: Severity
    details: Any = None
    by: By = "hub"


class Who(Body, frozen=True, kw_only=True):
    by: By = "hub"


# -- answered ------------------------------------------------------------------------------------


class EntityView(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    entity: str
    created_ns: int
    fields: dict[str, Any]


class Entities(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    entities: list[EntityView]
    next: str | None


class AttributeView(msgspec.Struct, frozen=True, kw_only=True):
    """`updated_ns` is by the clock of who wrote it, as the hub has corrected it."""

    value: Any
    updated_ns: int


class Attributes(msgspec.Struct, frozen=True, kw_only=True):
    edge: str
    kind: str
    entity: str
    client: dict[str, AttributeView]
    shared: dict[str, AttributeView]
    server: dict[str, AttributeView]


class RelationView(msgspec.Struct, frozen=True, kw_only=True):
    """`source` and `to` are written `kind/name`."""

    source: str
    type: str
    to: str
    data: Any


class Relations(msgspec.Struct, frozen=True, kw_only=True):
    """Those from an entity, and those that lead to it."""

    edge: str
    relations: list[RelationView]


class WaitingView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is kept and has no effect before `lacks` is there."""

    what: str
    lacks: str


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong between the entities of an edge; `count` is how many there are."""

    edge: str
    count: int
    waiting: list[WaitingView]
    cycles: list[list[str]]


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What an entity had, by room: fields, attributes, relations, alarms."""

    removed: dict[str, int]


class AlarmView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest occurrence of an alarm: number `occurrence`.

    end_ns   when its condition was seen last
    at_edge  whether the edge has noted all of this in its journal
    """

    id: str
    edge: str
    kind: str
    entity: str
    type: str
    occurrence: int
    severity: str
    status: Literal["ACTIVE_UNACK", "ACTIVE_ACK", "CLEARED_UNACK", "CLEARED_ACK"]
    start_ns: int
    end_ns: int
    details: Any
    raised_by: str
    acked_ns: int | None
    acked_by: str
    cleared_ns: int | None
    cleared_by: str
    at_edge: bool


class Alarms(msgspec.Struct, frozen=True, kw_only=True):
    """A page may hold fewer than were asked for, or none, while `next` leads on."""

    edge: str
    alarms: list[AlarmView]
    next: str | None


class FleetAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """Likewise, of all edges by their names."""

    alarms: list[AlarmView]
    next: str | None
