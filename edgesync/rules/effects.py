"""Effects of chains as plain values, carried out by the part that runs the engine.   [sans-IO]

All effects of a message belong together: they are stored in one transaction (I2), and only then is
the message acknowledged (I1). Calls that leave the edge follow after that commit.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from edgesync.model import Action, Event, Lane, Reading
from edgesync.rules.alarm import Alarm
from edgesync.rules.message import Message, Originator


class SaveReadings(msgspec.Struct, frozen=True):
    """Keep readings at this edge, for questions there."""

    readings: tuple[Reading, ...]


class PushReadings(msgspec.Struct, frozen=True):
    """Let the hub have readings."""

    readings: tuple[Reading, ...]
    lane: Lane = Lane.BULK


class PushEvent(msgspec.Struct, frozen=True):
    """Let the hub have an event."""

    event: Event
    lane: Lane = Lane.NORMAL


class TellAlarm(msgspec.Struct, frozen=True):
    """An alarm has begun, ended or changed: all who look at alarms see it, at the hub too."""

    alarm: Alarm
    action: Action


class SetAttributes(msgspec.Struct, frozen=True):
    """Attributes of an entity have changed; `notify`: its device is to hear of it."""

    entity: Originator
    scope: str  # client, server or shared
    values: Mapping[str, Any]
    notify: bool = False


class DeleteAttributes(msgspec.Struct, frozen=True):
    entity: Originator
    scope: str
    keys: tuple[str, ...]
    notify: bool = False


class ReplyTo(msgspec.Struct, frozen=True):
    """The place where an answer goes on: behind the node that asked, with its message."""

    node: str
    message: Message
    stack: tuple[str, ...] = ()


class CallDevice(msgspec.Struct, frozen=True, kw_only=True):
    """Call a method of a device; without `reply_to` nobody waits for what it says."""

    device: Originator
    method: str
    params: object
    timeout_s: float
    is_oneway: bool = False
    request_id: str = ""
    reply_to: ReplyTo | None = None


class ReplyToDevice(msgspec.Struct, frozen=True):
    """Answer a call that a device has made."""

    device: Originator
    request_id: str
    data: object


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask a server; its answer goes on behind the node that asked."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float
    reply_to: ReplyTo


class LogLine(msgspec.Struct, frozen=True):
    node: str
    text: str


class PutState(msgspec.Struct, frozen=True):
    """The value that a node remembers from here on; None: it forgets."""

    key: bytes
    value: bytes | None


Effect = (
    SaveReadings | PushReadings | PushEvent | TellAlarm | SetAttributes | DeleteAttributes
    | CallDevice | ReplyToDevice | HttpRequest | LogLine | PutState
)  # fmt: skip
