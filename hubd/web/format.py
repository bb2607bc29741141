"""How numbers, times and values look on a page."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from markupsafe import Markup

from edgesync.model import Value
from hubd.api.redis_json import Blob

NARROW_SPACE: Final = "\u202f"
BODY_CHARS: Final = 200


def count(number: int | None) -> str:
    """12345 as 12 345."""
    return "–" if number is None else f"{number:,}".replace(",", NARROW_SPACE)


def value(one: Value | None) -> str:
    """A reading's value with the digits that matter."""
    match one:
        case None:
            return "–"
        case bool():
            return "on" if one else "off"
        case str():
            return one
        case int():
            return count(one)
    if one != one:
        return "n/a"
    if abs(one) >= 1e7 or 0 < abs(one) < 1e-3:
        return f"{one:.4g}"
    one += 0.0  # no minus before a zero
    digits = 0 if abs(one) >= 10_000 else 1 if abs(one) >= 1000 else 2
    text = f"{one:,.{digits}f}"
    if abs(one) < 100:
        text = f"{one:.3f}".rstrip("0").rstrip(".")
    return text.replace(",", NARROW_SPACE)


def seconds(span: float | None) -> str:
    """A span with a unit that fits."""
    if span is None:
        return "–"
    sign, span = ("−" if span < 0 else ""), abs(span)
    if span < 0.9995:
        return f"{sign}{span * 1000:.{0 if span >= 0.1 else 1}f} ms"
    if span < 60:
        return f"{sign}{span:.1f} s"
    for limit, unit, size in ((3600, "min", 60), (86400, "h", 3600)):
        if span < limit:
            return f"{sign}{span / size:.1f} {unit}"
    return f"{sign}{span / 86400:.1f} d"


def age(time_ns: int | None, now_ns: int) -> str:
    """How long ago; whole seconds, so that it does not flicker."""
    if not time_ns:
        return "never"
    span = (now_ns - time_ns) / 1e9
    if span < -1:
        return f"in {seconds(-span)}"
    if span < 2:
        return "now"
    return f"{int(span)} s ago" if span < 60 else f"{seconds(span)} ago"


def newest(
    series: str, one: Value | None, time_ns: int | None, now_ns: int
) -> Iterator[tuple[str, str]]:
    """Yield the cells of a series: its newest value, and how old that is."""
    yield series, value(one)
    yield f"{series} age", age(time_ns, now_ns)


def moment(time_ns: int, to: Literal["ms", "minute"] = "ms") -> str:
    """A point in time, UTC."""
    try:
        at = datetime.fromtimestamp(time_ns // 10**9, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"  # a clock that was off by centuries
    if to == "minute":
        return f"{at:%Y-%m-%d %H:%M}"
    return f"{at:%Y-%m-%d %H:%M:%S}.{time_ns // 10**6 % 1000:03d}"


# What a technical word means, for who meets it on a page.
TERMS: Final = {
    "lag": "Records the edge has and the hub does not, as it said when last heard.",
    "tail": "The newest record in the edge's journal, by its number.",
    "floor": "The newest record that is on the hub's disk; all before it are too.",
    "safe": "The newest record that every backup of the hub has as well.",
    "lane": "Three streams, each in order: critical first, bulk (readings) last.",
    "session": "Counts how often this edge has connected; an older connection can write nothing.",
    "round trip": "How long an answer takes over this link.",
    "clock offset": "The edge's wall clock minus the hub's. Nothing is ordered by it.",
    "dead": "Refused for good: records by the hub, devices' messages by the edge; it has them.",
    "lost": "Records that a policy or a damaged disk took, each with its reason in the events.",
    "series": "One quantity of one device, such as meter0 ActivePower.",
    "conflict": "Two edges wrote to one key and had not seen each other's value.",
    "invited": "A token was made and has not been used yet.",
    "revoked": "Its key is never let in again.",
    "stopped": "It said goodbye: somebody stopped it.",
    "lost link": "It fell silent without a goodbye.",
    "invalid": "A point the device does not answer for, or answers with what cannot be.",
}


def term(word: str, shown: str = "") -> Markup:
    """Return a word that explains itself when it is pointed at or tapped."""
    return Markup('<dfn tabindex="0" data-help="{}">{}</dfn>').format(TERMS[word], shown or word)


def breakable(name: str) -> Markup:
    """Return a name that may be broken between its words, as CellTemperatureMax."""
    parts = re.split(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[._:/-])", name)
    return Markup("<wbr>").join(parts)


def size(nbytes: Any) -> str:
    """A number of bytes with a unit that fits; an edge may say anything."""
    if not isinstance(nbytes, int | float):
        return "–"
    for unit, width in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= width:
            return f"{nbytes / width:.3g} {unit}"
    return f"{nbytes:.0f} B"


def blob(one: Blob | None) -> str:
    """A key, a name or a value, whatever bytes it is; None is what has been removed."""
    if one is None:
        return "removed"
    return one if isinstance(one, str) else f"0x{one.base64.hex()}"


def raw(content: bytes) -> str:
    """JSON as it came, in one line."""
    return body(bytes(content).decode(errors="replace"))


def body(content: Any) -> str:
    """What an event says, in one line."""
    if content is None:
        return ""
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    return text if len(text) <= BODY_CHARS else text[:BODY_CHARS] + "…"
