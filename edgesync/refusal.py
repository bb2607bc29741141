"""What a device sent and its edge refused, as an event that both ends list with the dead letters.

The message is acknowledged where its sender cannot be told (MQTT 3.1.1, or one child of a gateway),
so it never comes again: the event is all that is left of it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from edgesync.model import EntityType, Event, EventType

PROBLEMS_MAX: Final = 10  # of one message
SHOWN_BYTES: Final = 500  # of its payload
TOPIC_CHARS_MAX: Final = 200
MARK: Final = b'"refused"'  # without it a body need not be read


class _Body(msgspec.Struct):
    refused: tuple[str, ...] = ()


def refusal_event(
    device: str, topic: str, payload: bytes, problems: Sequence[str], time_ns: int
) -> Event:
    """Return what is kept of a message that was refused, or part of it."""
    body = {
        "state": "online", "refused": list(problems)[:PROBLEMS_MAX],
        "topic": topic[:TOPIC_CHARS_MAX],
        "payload": payload[:SHOWN_BYTES].decode(errors="replace"),
    }  # fmt: skip
    return Event(
        type=EventType.SOURCE, entity_type=EntityType.DEVICE, entity_id=device,
        body=msgspec.json.encode(body), time_ns=time_ns,
    )  # fmt: skip


def refusal_reason(event_type: int, body: bytes) -> str:
    """Return why the message was refused that an event tells of; "" for any other event."""
    if event_type != EventType.SOURCE or MARK not in body:
        return ""
    try:
        found = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return "; ".join(found.refused)
