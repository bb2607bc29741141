"""What an entity is called, and the limits of everything about it.   [sans-IO]"""

import enum
import re
from typing import Any, Final, Self

import msgspec

from edgesync.errors import EntityError
from edgesync.model import I64, NAME_CHARS_MAX

# Kinds that are known; others, of a newer peer, are kept and carried as these are.
KINDS: Final = (
    "device", "asset", "entity_view", "edge", "customer", "user", "tenant", "site",
    "device_profile", "asset_profile", "dashboard", "rule_chain", "widgets_bundle", "widget_type",
)  # fmt: skip
# The hub's word counts for these: an edge shows and uses them.
MANAGED: Final = frozenset(KINDS[3:])

KIND_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
EDGE_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# With its room, edge and kind in front it has to be a key of 500 bytes.
NAME_BYTES_MAX: Final = 380
FIELD_BYTES_MAX: Final = 400
VALUE_BYTES_MAX: Final = 64 * 1024
# Of one entity: attributes of a scope, bytes of them, relations from it; and entities of an edge.
ATTRIBUTES_MAX: Final = 1000
ATTRIBUTES_BYTES_MAX: Final = 256 * 1024
RELATIONS_MAX: Final = 5000
ENTITIES_MAX: Final = 50_000
ALARMS_MAX: Final = 20_000
DEPTH_MAX: Final = 32
SHOWN: Final = 60
# The year 2255: times of entities and alarms are told in nanoseconds, of 64 bits.
MS_MAX: Final = 9_000_000_000_000
_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")


class Scope(enum.Enum):
    """Whose an attribute is: the device's own report, a setting for it, or the servers' alone."""

    CLIENT = "client"
    SHARED = "shared"
    SERVER = "server"

    @classmethod
    def named(cls, name: str) -> Self:
        """Return a scope by its name, as ThingsBoard writes it too; raises EntityError."""
        try:
            return cls(name.lower().removesuffix("_scope"))
        except ValueError:
            known = ", ".join(one.value for one in cls)
            raise EntityError("scope", f"no scope {name[:SHOWN]!r}", f"one of {known}") from None


class EntityId(msgspec.Struct, frozen=True, order=True):
    """An entity at an edge: ("barn-7", "device", "Scale 7"). Whoever creates it, it is this one."""

    edge: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def entity(edge: str, kind: str, name: str) -> EntityId:
    """Return an entity's id; raises EntityError."""
    if not EDGE_PATTERN.fullmatch(edge):
        raise EntityError(
            "edge", f"{edge[:SHOWN]!r} is no edge's name", "1 to 63 of A-Z a-z 0-9 . _ -"
        )
    kind = kind.lower()
    if not KIND_PATTERN.fullmatch(kind):
        raise EntityError("kind", f"{kind[:SHOWN]!r} is no kind", f"such as {', '.join(KINDS[:3])}")
    return EntityId(edge, kind, checked_name("name", name, NAME_BYTES_MAX))


def checked_name(field: str, name: str, bytes_max: int) -> str:
    """Return a name of an entity, an attribute or an alarm; raises EntityError."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise EntityError(field, "half of a surrogate pair", "send valid UTF-8") from None
    if not 0 < len(name) <= NAME_CHARS_MAX or size > bytes_max:
        raise EntityError(
            field, f"{len(name)} characters, {size} bytes",
            f"1 to {NAME_CHARS_MAX} characters, {bytes_max} bytes at most",
        )  # fmt: skip
    if any(one < " " or one == "\x7f" for one in name):
        raise EntityError(field, f"{name[:SHOWN]!r} has a control character", "leave it out")
    return name


def encode_value(field: str, value: Any) -> bytes:
    """Return a value as JSON; raises EntityError for one that is none or too large."""
    try:
        _check_depth(value, DEPTH_MAX)
        found = msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EntityError(
            field, f"is no JSON: {error}"[:200],
            "numbers of 64 bits, text, true, false, lists and objects, 32 deep at most",
        ) from None  # fmt: skip
    if len(found) > VALUE_BYTES_MAX:
        raise EntityError(
            field, f"{len(found)} bytes",
            f"at most {VALUE_BYTES_MAX}: what is larger is a file and no attribute",
        )  # fmt: skip
    return found


def _check_depth(value: Any, left: int) -> None:
    if not left:
        raise ValueError("nested too deeply")
    if isinstance(value, float) and value - value != 0:
        raise ValueError(f"{value} is no number")
    if type(value) is int and not -I64 <= value < I64:
        raise ValueError(f"a number of {value.bit_length()} bits")
    if isinstance(value, dict):
        for one in value.values():
            _check_depth(one, left - 1)
    elif isinstance(value, list | tuple):
        for one in value:
            _check_depth(one, left - 1)


def decode_value(raw: bytes) -> Any:
    """Return a value; what some client wrote and nobody could write again is the text it is."""
    try:
        found = msgspec.json.decode(raw)
        if _LONG_NUMBER.search(raw) or raw.count(b"[") + raw.count(b"{") > DEPTH_MAX:
            encode_value("", found)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, EntityError):
        return raw.decode(errors="replace")
    return found
