"""Data of messages into readings and attributes, checked as the store will check them. [sans-IO]"""

import math
from typing import TYPE_CHECKING, Any

from edgesync.model import I64, NAME_CHARS_MAX, TEXT_BYTES_MAX, Reading, Value
from edgesync.rules.message import NANOS, Message
from edgesync.rules.node import NodeFailure
from edgesync.rules.templates import as_text

if TYPE_CHECKING:
    from collections.abc import Mapping


def message_time_ns(message: Message) -> int:
    """Return the time of a message: that of its metadata, to the nanosecond if it is its own."""
    text = message.metadata.get("ts", "")
    if not text or text == str(message.time_ns // NANOS):
        return message.time_ns
    try:
        time_ns = int(float(text)) * NANOS if not text.isdecimal() else int(text[:30]) * NANOS
    except (ValueError, OverflowError) as error:
        raise NodeFailure(f"metadata ts: {text[:40]!r} is no time in milliseconds") from error
    return checked_time(time_ns)


def checked_time(time_ns: int) -> int:
    if not -I64 <= time_ns < I64:
        raise NodeFailure("a time between the years 1678 and 2262 is needed")
    return time_ns


def telemetry(message: Message, time_ns: int) -> list[Reading]:
    """Return the readings in a message's data; raises NodeFailure, which names the key.

    Data is `{"k": v}`, `{"ts": ms, "values": {…}}`, or a list of either.
    """
    items = message.data if isinstance(message.data, list) else [message.data]
    found: list[Reading] = []
    name = checked_name("originator", message.originator.name)
    for item in items:
        if not isinstance(item, dict):
            raise NodeFailure(f"data is no object of keys and values, but {kind_of(item)}")
        at_ns = time_ns
        if "ts" in item and isinstance(item.get("values"), dict):
            at_ns, item = checked_time(_milliseconds(item["ts"]) * NANOS), item["values"]
        for key, value in item.items():
            if value is not None:
                unit = message.units.get(key, "")
                found.append(
                    Reading(name, checked_name("key", key), stored(key, value), at_ns, unit)
                )
    return found


def attributes(data: Any) -> dict[str, Any]:
    """Return the attributes in a message's data: what JSON can say; NodeFailure names the key."""
    if not isinstance(data, dict):
        raise NodeFailure(f"data is no object of keys and values, but {kind_of(data)}")
    found: dict[str, Any] = {}
    for key, value in data.items():
        if value is not None:
            stored(key, value)  # as large, and no larger
            found[checked_name("key", key)] = value
    return found


def stored(key: str, value: Any) -> Value:
    """Return a value as it can be stored: objects and lists become JSON."""
    if isinstance(value, int) and not isinstance(value, bool) and not -I64 <= value < I64:
        raise NodeFailure(f"{key}: {value} is beyond 64 bits")
    if isinstance(value, bool | int | float):
        return value
    text = as_text(value)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise NodeFailure(f"{key}: half of a surrogate pair") from error
    if size > TEXT_BYTES_MAX:
        raise NodeFailure(f"{key}: text of {size} bytes; {TEXT_BYTES_MAX} are the most")
    return text


def checked_name(what: str, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise NodeFailure(f"{what}: half of a surrogate pair") from error
    if not 0 < len(name) <= NAME_CHARS_MAX:
        raise NodeFailure(f"{what} {name[:40]!r}: a name has 1 to {NAME_CHARS_MAX} characters")
    return name


def number(value: Any) -> float | int | None:
    """Return a value as a number, None if it is none: texts that write one are one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if isinstance(value, int) or math.isfinite(value) else None
    if isinstance(value, str) and len(value) <= 64:
        try:
            found = float(value)
        except ValueError:
            return None
        return found if math.isfinite(found) else None
    return None


def kind_of(value: Any) -> str:
    names: Mapping[type, str] = {
        dict: "an object", list: "a list", str: "a text", bool: "a boolean", int: "a number",
        float: "a number", type(None): "null",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def _milliseconds(value: Any) -> int:
    found = number(value)
    if found is None:
        raise NodeFailure("ts is no time in milliseconds since 1970")
    return int(found)
