"""Messages, which travel through chains.   [sans-IO]"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from edgesync.model import EntityType, Reading

NANOS: Final = 1_000_000

POST_TELEMETRY: Final = "POST_TELEMETRY_REQUEST"
POST_ATTRIBUTES: Final = "POST_ATTRIBUTES_REQUEST"
ATTRIBUTES_UPDATED: Final = "ATTRIBUTES_UPDATED"
ATTRIBUTES_DELETED: Final = "ATTRIBUTES_DELETED"
TIMESERIES_UPDATED: Final = "TIMESERIES_UPDATED"
CONNECT: Final = "CONNECT_EVENT"
DISCONNECT: Final = "DISCONNECT_EVENT"
CALL_TO_DEVICE: Final = "RPC_CALL_FROM_SERVER_TO_DEVICE"
CALL_FROM_DEVICE: Final = "TO_SERVER_RPC_REQUEST"
ALARM: Final = "ALARM"
ALARM_ACK: Final = "ALARM_ACK"
ALARM_CLEAR: Final = "ALARM_CLEAR"

# The relation by which a switch of types lets each go; all others leave by "Other".
RELATIONS: Final[Mapping[str, str]] = {
    POST_ATTRIBUTES: "Post attributes",
    POST_TELEMETRY: "Post telemetry",
    CALL_FROM_DEVICE: "RPC Request from Device",
    CALL_TO_DEVICE: "RPC Request to Device",
    "ACTIVITY_EVENT": "Activity Event",
    "INACTIVITY_EVENT": "Inactivity Event",
    CONNECT: "Connect Event",
    DISCONNECT: "Disconnect Event",
    "ENTITY_CREATED": "Entity Created",
    "ENTITY_UPDATED": "Entity Updated",
    "ENTITY_DELETED": "Entity Deleted",
    "ENTITY_ASSIGNED": "Entity Assigned",
    "ENTITY_UNASSIGNED": "Entity Unassigned",
    ATTRIBUTES_UPDATED: "Attributes Updated",
    ATTRIBUTES_DELETED: "Attributes Deleted",
    ALARM_ACK: "Alarm Acknowledged",
    ALARM_CLEAR: "Alarm Cleared",
    "ALARM_ASSIGNED": "Alarm Assigned",
    "ALARM_UNASSIGNED": "Alarm Unassigned",
    "COMMENT_CREATED": "Comment Created",
    "COMMENT_UPDATED": "Comment Updated",
    "ENTITY_ASSIGNED_FROM_TENANT": "Entity Assigned From Tenant",
    "ENTITY_ASSIGNED_TO_TENANT": "Entity Assigned To Tenant",
    TIMESERIES_UPDATED: "Timeseries Updated",
    "TIMESERIES_DELETED": "Timeseries Deleted",
    "RPC_QUEUED": "RPC Queued",
    "RPC_SENT": "RPC Sent",
    "RPC_DELIVERED": "RPC Delivered",
    "RPC_SUCCESSFUL": "RPC Successful",
    "RPC_TIMEOUT": "RPC Timeout",
    "RPC_EXPIRED": "RPC Expired",
    "RPC_FAILED": "RPC Failed",
    "RPC_DELETED": "RPC Deleted",
    "RELATION_ADD_OR_UPDATE": "Relation Added or Updated",
    "RELATION_DELETED": "Relation Deleted",
    "RELATIONS_DELETED": "All Relations Deleted",
}
OTHER: Final = "Other"


class Originator(msgspec.Struct, frozen=True, order=True):
    """The entity that a message is about; `kind` as ThingsBoard writes it, "DEVICE" for one."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def entity_type(self) -> EntityType:
        return EntityType.__members__.get(self.kind, EntityType.NONE)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message; nobody changes one that another node may hold, `data` and `metadata` included.

    data      what JSON can say; of telemetry an object of keys and values
    metadata  texts by name
    time_ns   of what it tells, from which `metadata["ts"]` was made
    units     of the keys in `data`, where a source named them
    """

    type: str
    originator: Originator
    data: Any
    metadata: Mapping[str, str]
    time_ns: int
    units: Mapping[str, str] = {}

    def changed(self, **fields: Any) -> "Message":
        return msgspec.structs.replace(self, **fields)

    def with_metadata(self, **added: str) -> "Message":
        return self.changed(metadata={**self.metadata, **added})


def device_message(
    kind: str, entity: str, data: Any, time_ns: int, *, profile: str = "default",
    units: Mapping[str, str] | None = None,
) -> Message:  # fmt: skip
    """Return a message of a device, with the metadata that chains expect of one."""
    metadata = {"deviceName": entity, "deviceType": profile, "ts": str(time_ns // NANOS)}
    return Message(
        type=kind, originator=Originator("DEVICE", entity), data=data, metadata=metadata,
        time_ns=time_ns, units={} if units is None else units,
    )  # fmt: skip


def telemetry_messages(readings: "list[Reading] | tuple[Reading, ...]") -> list[Message]:
    """Return the messages of readings: one for each entity and time, in the order of arrival.

    A key that occurs twice with one time begins another message: both are kept.
    """
    found: list[Message] = []
    open_: dict[tuple[str, int], tuple[dict[str, Any], dict[str, str]]] = {}
    for one in readings:
        name = (one.entity, one.time_ns)
        known = open_.get(name)
        if known is None or one.key in known[0]:
            known = open_[name] = ({}, {})
            found.append(
                device_message(POST_TELEMETRY, one.entity, known[0], one.time_ns, units=known[1])
            )
        known[0][one.key] = one.value
        if one.unit:
            known[1][one.key] = one.unit
    return found
