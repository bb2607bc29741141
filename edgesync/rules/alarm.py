"""An alarm as rules see it: its state, and how it is told.   [sans-IO]"""

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from edgesync.model import Lane
from edgesync.rules.message import NANOS, Originator

# The most severe one first.
SEVERITIES: Final = ("CRITICAL", "MAJOR", "MINOR", "WARNING", "INDETERMINATE")
# What its details may hold; an event holds 60 KiB.
DETAILS_BYTES_MAX: Final = 32 * 1024


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm of an entity, which has one active of a type at most; times of 0 are not yet.

    is_shared  the entities of the edge have it as it is
    """

    id: str
    entity: Originator
    type: str
    severity: str
    start_ns: int
    end_ns: int
    ack_ns: int = 0
    clear_ns: int = 0
    propagate: bool = False
    details: Any = None
    is_shared: bool = False

    @property
    def is_active(self) -> bool:
        return not self.clear_ns

    @property
    def status(self) -> str:
        return f"{'ACTIVE' if self.is_active else 'CLEARED'}_{'ACK' if self.ack_ns else 'UNACK'}"

    @property
    def lane(self) -> Lane:
        return Lane.CRITICAL if self.severity in SEVERITIES[:2] else Lane.NORMAL

    def changed(self, **fields: Any) -> "Alarm":
        return msgspec.structs.replace(self, **fields)

    def told(self) -> dict[str, Any]:
        """Return it as chains, ThingsBoard's clients and the hub read it; times in milliseconds."""
        return {
            "id": {"entityType": "ALARM", "id": self.id},
            "type": self.type,
            "name": self.type,
            "originator": {"entityType": self.entity.kind, "id": self.entity.name},
            "originatorName": self.entity.name,
            "severity": self.severity,
            "status": self.status,
            "startTs": self.start_ns // NANOS,
            "endTs": self.end_ns // NANOS,
            "ackTs": self.ack_ns // NANOS,
            "clearTs": self.clear_ns // NANOS,
            "propagate": self.propagate,
            "details": self.details,
        }


def new_alarm(
    entity: Originator, kind: str, severity: str, time_ns: int, *,
    details: Any = None, propagate: bool = False,
) -> Alarm:  # fmt: skip
    """Return an alarm that begins; its id follows from entity, type and time (I13)."""
    seed = f"{entity}\0{kind}\0{time_ns}".encode()
    digest = hashlib.blake2b(seed, digest_size=16).digest()
    return Alarm(
        id=str(uuid.UUID(bytes=digest, version=4)), entity=entity, type=kind, severity=severity,
        start_ns=time_ns, end_ns=time_ns, details=details, propagate=propagate,
    )  # fmt: skip


def as_alarm(stored: Mapping[str, Any]) -> Alarm:
    return msgspec.convert(stored, Alarm)
