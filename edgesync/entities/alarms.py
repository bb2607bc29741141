"""Alarms: one at a time of each originator and type, with an acknowledgement and an end.  [sans-IO]

An alarm is a hash, found by originator and type, so that two sites that raise the same make one:

    about            [kind, name, type]
    raise:N          occurrence N: when, severity, details
    ack:N  clear:N   who did so, and when
    told             what of it the edge's journal has: see `untold`

What is done to an occurrence names its number. So an acknowledgement or an end that comes late from
the other side is of what somebody saw there, and never of what was raised since; and an alarm that
the hub cleared can be raised at once by the edge, as the next occurrence.
"""

import enum
import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from edgesync.entities.keys import ALARM, alarm_key, room_of
from edgesync.entities.model import (
    ALARMS_MAX,
    MS_MAX,
    SHOWN,
    EntityId,
    checked_name,
    encode_value,
    entity,
)
from edgesync.entities.view import Command, View, delete_fields, set_fields
from edgesync.errors import EntityError, RecordError

TYPE_BYTES_MAX: Final = 255
BY_BYTES_MAX: Final = 255
DETAILS_BYTES_MAX: Final = 16 * 1024
# Of severities that are not known, of a newer peer.
SEVERITY_CHARS_MAX: Final = 32
# An occurrence that is raised again and again without a change is noted so often.
REFRESH_MS: Final = 60_000
NUMBERED: Final = ("raise", "ack", "clear")


class Severity(enum.Enum):
    CRITICAL = "CRITICAL"
    MAJOR = "MAJOR"
    MINOR = "MINOR"
    WARNING = "WARNING"
    INDETERMINATE = "INDETERMINATE"

    @classmethod
    def named(cls, name: str) -> "Severity":
        """Return a severity by its name; raises EntityError."""
        try:
            return cls(name.upper())
        except ValueError:
            known = ", ".join(one.value for one in cls)
            raise EntityError(
                "severity", f"no severity {name[:SHOWN]!r}", f"one of {known}"
            ) from None


Ms = Annotated[int, Meta(ge=0, le=MS_MAX)]
By = Annotated[str, Meta(max_length=BY_BYTES_MAX)]


class Mark(msgspec.Struct, frozen=True):
    """Who did something to an occurrence, and when by their clock."""

    at: Ms
    by: By = ""


class Raised(msgspec.Struct, frozen=True):
    """An occurrence: from `at` to `end`, the last time that its condition was seen."""

    at: Ms
    end: Ms
    severity: Annotated[str, Meta(max_length=SEVERITY_CHARS_MAX)] = Severity.INDETERMINATE.value
    details: Any = None
    by: By = ""

    def __post_init__(self) -> None:
        if (size := len(msgspec.json.encode(self.details))) > DETAILS_BYTES_MAX:
            raise ValueError(f"details of {size} bytes")


class JournalState(msgspec.Struct, frozen=True):
    """An alarm as the edge's journal has it: occurrence `n`, and its transitions told there."""

    n: int = 0
    severity: str = ""
    is_acked: bool = False
    is_cleared: bool = False


class Alarm(msgspec.Struct, frozen=True):
    """The newest occurrence of an alarm."""

    id: str
    originator: EntityId
    type: str
    n: int
    raised: Raised
    ack: Mark | None = None
    clear: Mark | None = None
    told: JournalState = JournalState()

    @property
    def is_active(self) -> bool:
        return self.clear is None

    @property
    def status(self) -> str:
        """Return it as ThingsBoard writes it, such as ACTIVE_UNACK."""
        ack = "UNACK" if self.ack is None else "ACK"
        return f"{'ACTIVE' if self.is_active else 'CLEARED'}_{ack}"


class Transition(enum.Enum):
    """What may happen to an alarm."""

    RAISED = "raised"
    SEVERITY = "severity"
    ACKED = "acked"
    CLEARED = "cleared"


def alarm_id(originator: EntityId, type_: str) -> str:
    """Return what both sides call this alarm; raises EntityError."""
    checked_name("type", type_, TYPE_BYTES_MAX)
    text = f"{originator.kind}\0{originator.name}\0{type_}".encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def find_alarm(view: View, edge: str, id_: str) -> Alarm | None:
    """Return an alarm by its id; None when there is none that can be read."""
    try:
        fields = view.fields(alarm_key(edge, id_[:64]))
    except RecordError:
        return None
    about = _about(edge, fields.get(b"about"))
    found = sorted(_numbered(fields, b"raise:"), reverse=True)
    raises = ((n, _convert(raw, Raised)) for n, raw in found)
    n, raised = next(((n, one) for n, one in raises if one is not None), (0, None))
    return None if about is None or raised is None else Alarm(
        id_, *about, n, raised,
        ack=_convert(fields.get(b"ack:%d" % n), Mark),
        clear=_convert(fields.get(b"clear:%d" % n), Mark),
        told=_convert(fields.get(b"told"), JournalState) or JournalState(),
    )  # fmt: skip


def originator_of(edge: str, raw: bytes | None) -> EntityId | None:
    """Return of what an alarm is, by its field `about`; None for what no alarm could have."""
    about = _about(edge, raw)
    return None if about is None else about[0]


def _about(edge: str, raw: bytes | None) -> tuple[EntityId, str] | None:
    said = _convert(raw, tuple[str, str, str])
    if said is None:
        return None
    kind, name, type_ = said
    try:
        return entity(edge, kind, name), checked_name("type", type_, TYPE_BYTES_MAX)
    except EntityError:
        return None


def all_alarms(view: View, edge: str, after: str = "") -> Iterator[Alarm]:
    """Yield the alarms of an edge, in the order of their ids."""
    prefix = room_of(ALARM, edge)
    for key in view.keys(prefix, prefix + after.encode() if after else None):
        found = find_alarm(view, edge, key[len(prefix) :].decode(errors="replace"))
        if found is not None:
            yield found


def alarms_of(view: View, originator: EntityId, keys: Iterable[bytes] | None = None) -> list[Alarm]:
    """Return the alarms of an entity; of the others of its edge only whose they are is read.

    keys  where they are, if that is known
    """
    prefix, quoted = room_of(ALARM, originator.edge), b'"%s"' % originator.name.encode()
    found: list[Alarm] = []
    for key in view.keys(prefix) if keys is None else keys:
        about = view.field(key, b"about") or b""
        if (
            quoted not in about and b"\\" not in about
        ):  # with an escape it may say the name otherwise
            continue
        one = find_alarm(view, originator.edge, key[len(prefix) :].decode(errors="replace"))
        if one is not None and one.originator == originator:
            found.append(one)
    return found


def plan_raise(
    view: View,
    originator: EntityId,
    type_: str,
    severity: Severity,
    now_ms: int,
    *,
    details: Any = None,
    by: str = "",
) -> list[Command]:
    """Return the commands that raise an alarm, or renew it where it is active.

    details  None leaves those of an active one
    now_ms   a time before 1970, or so late that nobody could tell it, is the nearest that can be
    """
    now_ms = _ms(now_ms)
    id_ = alarm_id(originator, type_)
    key = alarm_key(originator.edge, id_)
    size = len(encode_value("details", details))
    if size > DETAILS_BYTES_MAX:
        raise EntityError("details", f"{size} bytes", f"at most {DETAILS_BYTES_MAX}")
    view.changeable(key)
    before = find_alarm(view, originator.edge, id_)
    by = checked_by(by)
    if before is not None and before.is_active:
        raised = Raised(
            before.raised.at, max(now_ms, before.raised.end), severity.value,
            before.raised.details if details is None else details, before.raised.by,
        )  # fmt: skip
        if not _is_news(before.raised, raised):
            return []
        return set_fields(key, {b"raise:%d" % before.n: encode_value("details", raised)})
    if before is None and view.count(room_of(ALARM, originator.edge), ALARMS_MAX) >= ALARMS_MAX:
        raise EntityError(
            "type", f"{originator.edge} has {ALARMS_MAX} alarms", "delete some, or name fewer types"
        )
    n = 1 if before is None else before.n + 1
    raised = Raised(now_ms, now_ms, severity.value, details, by)
    about = encode_value("type", [originator.kind, originator.name, type_])
    fields = {b"about": about, b"raise:%d" % n: encode_value("details", raised)}
    return [*set_fields(key, fields), *_forget_before(view, key, n)]


def _is_news(before: Raised, now: Raised) -> bool:
    is_same = (before.severity, before.details) == (now.severity, now.details)
    return not is_same or now.end - before.end >= REFRESH_MS


def _forget_before(view: View, key: bytes, n: int) -> list[Command]:
    fields = view.fields(key)
    old = [
        name for kind in NUMBERED
        for name in fields
        if (number := _number(name, b"%s:" % kind.encode())) is not None and number < n
    ]  # fmt: skip
    return delete_fields(key, old)


def plan_ack(alarm: Alarm, now_ms: int, by: str = "") -> list[Command]:
    """Return the command that acknowledges an alarm; none when somebody has."""
    return [] if alarm.ack is not None else _mark(alarm, b"ack", now_ms, by)


def plan_clear(alarm: Alarm, now_ms: int, by: str = "") -> list[Command]:
    """Return the command that ends an alarm; none when it is over."""
    return [] if alarm.clear is not None else _mark(alarm, b"clear", now_ms, by)


def _mark(alarm: Alarm, what: bytes, now_ms: int, by: str) -> list[Command]:
    key = alarm_key(alarm.originator.edge, alarm.id)
    return set_fields(
        key, {b"%s:%d" % (what, alarm.n): msgspec.json.encode(Mark(_ms(now_ms), checked_by(by)))}
    )


def _ms(now_ms: int) -> int:
    return min(max(now_ms, 0), MS_MAX)


def checked_by(by: str) -> str:
    return checked_name("by", by, BY_BYTES_MAX) if by else ""


def untold(alarm: Alarm) -> list[Transition]:
    """Return what has happened to an alarm that the edge's journal does not have yet, in order."""
    told = alarm.told if alarm.told.n == alarm.n else JournalState()
    found = []
    if not told.n:
        found.append(Transition.RAISED)
    elif told.severity != alarm.raised.severity:
        found.append(Transition.SEVERITY)
    if alarm.ack is not None and not told.is_acked:
        found.append(Transition.ACKED)
    if alarm.clear is not None and not told.is_cleared:
        found.append(Transition.CLEARED)
    return found


def plan_told(alarm: Alarm) -> list[Command]:
    """Return the command that notes that the journal has all of an alarm."""
    told = JournalState(
        alarm.n, alarm.raised.severity,
        is_acked=alarm.ack is not None, is_cleared=alarm.clear is not None,
    )  # fmt: skip
    key = alarm_key(alarm.originator.edge, alarm.id)
    return [] if told == alarm.told else set_fields(key, {b"told": msgspec.json.encode(told)})


def _numbered(fields: dict[bytes, bytes], mark: bytes) -> Iterator[tuple[int, bytes]]:
    for name, raw in fields.items():
        if (number := _number(name, mark)) is not None:
            yield number, raw


def _number(name: bytes, mark: bytes) -> int | None:
    digits = name.removeprefix(mark) if name.startswith(mark) else b""
    return int(digits) if digits.isdigit() and len(digits) <= 15 else None


def _convert(raw: bytes | None, shape: Any) -> Any:
    """Return what a field says; None if it is not there, or nothing that can be read."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
