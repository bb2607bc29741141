"""Messages to ZeroMQ frames and back; the schema is `schema/link.capnp`.

A message is one control frame, a single-segment Cap'n Proto `Control`; what has a payload carries
it in a second frame, untouched. `decode` is total: whatever a peer sends ends as a
message that keeps every rule below or as a WireError, and every limit is checked before memory
is taken for what it limits.

The fields of a message are found by name: `clock_ns` of `messages.Hello` is `clockNs` of the
schema's `Hello`. `tests/transport/test_wire.py` holds the two together.

pycapnp brings an event loop of its own for its RPC; nothing in here starts it.
"""

import enum
import functools
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from edgesync_transport import messages
from edgesync_transport.messages import Batch, Codec, Message, RefuseCode, TunnelCode

LANES: Final = 3
ID_BYTES: Final = 16
U64_MAX: Final = 2**64 - 1

HEADER_BYTES: Final = 8
WORD_BYTES: Final = 8
# What the one question of a guest and its answer begin with; a frame of JSON follows. No message
# does: they begin with the protocol's version.
GUEST: Final = b"edgesync-enrol1"


class WireLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a frame may hold; more is refused before it is read."""

    control_bytes: int = 64 * 1024
    payload_bytes: int = 512 * 1024
    text_bytes: int = 1024
    # All of them, and what Cap'n Proto adds, fit into a control frame.
    keys: int = 64
    key_bytes: int = 512
    numbers: int = 6000


DEFAULT_LIMITS: Final = WireLimits()


class WireError(ValueError):
    """Frames that are no message of this protocol, or a message no frame may hold."""


class UnknownMessage(WireError):
    """A well-formed control frame of a kind this version has no name for: drop and count it."""


def encode(message: Message, limits: WireLimits = DEFAULT_LIMITS) -> list[bytes]:
    """Return the frames of `message`: the control frame and, if it has one, its payload.

    Texts over `limits.text_bytes` of UTF-8 are cut: they are for people. Raises WireError for a
    value the protocol has no room for, which only a bug can produce.
    """
    _check(message, limits)
    control, texts = _schema().Control, 0
    for name in ("reason", "software", "host", "by", "listing", "sha256"):
        texts += min(4 * len(getattr(message, name, "")), limits.text_bytes)
    for key in (*getattr(message, "wants", ()), *getattr(message, "grant", ())):
        texts += len(key) + 2 * WORD_BYTES
    texts += WORD_BYTES * len(getattr(message, "seen", ()))
    # One segment holds it all: the largest fixed part, a Welcome, is 60 words.
    builder = control.new_message(num_first_segment_words=80 + texts // WORD_BYTES)
    body = builder.init(_KIND_OF[type(message)])
    for field in _plan(type(message)):
        try:
            field.write(body, field.wire, getattr(message, field.name), limits)
        except (_kj_exception(), OverflowError, TypeError) as error:
            raise _refusal(message, field.name, error) from error
    payload: bytes = getattr(message, "payload", b"")
    if not payload:
        return [builder.to_bytes()]
    body.payloadBytes = len(payload)
    body.payloadCrc32 = zlib.crc32(payload)
    return [builder.to_bytes(), payload]


def decode(frames: Sequence[bytes], limits: WireLimits = DEFAULT_LIMITS) -> Message:
    """Return the message `frames` hold; raises WireError, and nothing else, if they hold none."""
    if not 1 <= len(frames) <= 2:
        raise WireError(f"{len(frames)} frames, a message has 1 or 2")
    control = frames[0]
    _check_framing(control, limits)
    try:
        reader = _schema().Control.from_segments(
            [control[HEADER_BYTES:]],
            # Many pointers may lead to the same bytes. How deep they go is the schema's: it has no
            # type that holds itself.
            traversal_limit_in_words=4 * len(control) // WORD_BYTES + 64,
        )
    except (_kj_exception(), ValueError) as error:
        raise WireError(f"control frame: {_first_line(error)}") from error
    try:
        kind = reader.which()
    except (_kj_exception(), ValueError) as error:
        # `Control` is all union: what has no name here was added by a later version.
        raise UnknownMessage("a kind of message this version does not know") from error
    try:
        body = getattr(reader, kind)
    except (_kj_exception(), ValueError) as error:
        raise WireError(f"control frame: {_first_line(error)}") from error
    return _read(kind, body, frames, limits)


def _check_framing(control: bytes, limits: WireLimits) -> None:
    if len(control) > limits.control_bytes:
        raise WireError(f"control frame of {len(control)} bytes, limit {limits.control_bytes}")
    if len(control) < HEADER_BYTES + WORD_BYTES or control[:4] != b"\0\0\0\0":
        raise WireError("control frame: not a single Cap'n Proto segment")
    words = int.from_bytes(control[4:8], "little")
    if HEADER_BYTES + words * WORD_BYTES != len(control):
        raise WireError(f"control frame of {len(control)} bytes claims {words} words")


def _read(kind: str, body: Any, frames: Sequence[bytes], limits: WireLimits) -> Message:
    cls = _CLASS_OF[kind]
    values: dict[str, Any] = {}
    for field in _plan(cls):
        try:
            values[field.name] = field.read(getattr(body, field.wire), limits)
        # UnicodeDecodeError is a ValueError, and so is our own WireError.
        except (_kj_exception(), ValueError) as error:
            raise WireError(f"{kind}.{field.wire}: {_first_line(error)}") from error
    if "payload" in cls.__struct_fields__:
        values["payload"] = _payload(kind, body, frames, limits)
    elif len(frames) != 1:
        raise WireError(f"{kind}: a second frame, which this kind never has")
    message = cls(**values)
    _check(message, limits)
    return message


def _payload(kind: str, body: Any, frames: Sequence[bytes], limits: WireLimits) -> bytes:
    claimed = body.payloadBytes
    payload = frames[1] if len(frames) == 2 else b""
    if len(payload) > limits.payload_bytes:
        raise WireError(f"{kind}: payload of {len(payload)} bytes, limit {limits.payload_bytes}")
    if len(payload) != claimed or (len(frames) == 2) != (claimed > 0):
        raise WireError(f"{kind}: payload of {len(payload)} bytes, claimed {claimed}")
    # CURVE already proves who sent the frame; this finds memory that flipped before it was sealed.
    if zlib.crc32(payload) != body.payloadCrc32:
        raise WireError(f"{kind}: the payload does not match its CRC-32")
    return payload


def _check(message: Message, limits: WireLimits) -> None:
    """Hold what a type cannot say, before a message is written and after it is read."""
    size, kind = len(getattr(message, "payload", b"")), _KIND_OF[type(message)]
    if size > limits.payload_bytes:
        raise WireError(f"{kind}: payload of {size} bytes, limit {limits.payload_bytes}")
    if isinstance(message, Batch) and message.codec is Codec.PROPOSAL:
        raise WireError("batch: a codec that only the log of a hub has")
    if isinstance(message, Batch) and message.codec is Codec.GAP and message.payload:
        raise WireError("batch: a GAP has no payload")
    if isinstance(message, messages.Page) and not message.part < message.parts:
        raise WireError(f"{kind}: part {message.part} of {message.parts}")
    if isinstance(message, Batch | messages.Nack) and not 1 <= message.first <= message.last:
        raise WireError(f"records {message.first} .. {message.last}: no such range")
    if (
        isinstance(message, messages.Hello)
        and not 1 <= message.protocol_oldest <= message.protocol_newest
    ):
        versions = f"{message.protocol_oldest} .. {message.protocol_newest}"
        raise WireError(f"hello: protocols {versions}: no such range")
    if isinstance(message, messages.Hello | messages.Welcome):
        _check_downlink(kind, message)


def _check_downlink(kind: str, message: messages.Hello | messages.Welcome) -> None:
    """Hold together what lanes from the hub need: a Hello may know no incarnation yet."""
    has_feature = bool(message.features & messages.Feature.DOWNLINK)
    if isinstance(message, messages.Hello):
        is_whole = has_feature == bool(message.down_floors)
    else:
        is_whole = has_feature == bool(message.down_offers) == bool(message.down_incarnation)
    if not is_whole:
        raise WireError(f"{kind}: lanes from the hub without their feature, or it without them")


# How a value of each type crosses the border. Readers get what pycapnp returns, writers get the
# struct to write into and the field's name there.


def _read_plain(value: Any, _: WireLimits) -> Any:
    return value


def _write_plain(body: Any, name: str, value: Any, _: WireLimits) -> None:
    setattr(body, name, value)


def _read_id(value: bytes, _: WireLimits) -> bytes:
    if len(value) != ID_BYTES:
        raise WireError(f"{len(value)} bytes, must be {ID_BYTES}")
    return bytes(value)


def _write_id(body: Any, name: str, value: bytes, limits: WireLimits) -> None:
    setattr(body, name, _read_id(value, limits))


def _read_some_id(value: bytes, _: WireLimits) -> bytes:
    return _read_id(value, _) if value else b""


def _write_some_id(body: Any, name: str, value: bytes, limits: WireLimits) -> None:
    if value:
        setattr(body, name, _read_id(value, limits))


def _read_text(value: str, limits: WireLimits) -> str:
    if len(value) > limits.text_bytes or len(value.encode()) > limits.text_bytes:
        raise WireError(f"text over {limits.text_bytes} bytes")
    return value


def _write_text(body: Any, name: str, value: str, limits: WireLimits) -> None:
    raw = value.encode("utf-8", "replace")[: limits.text_bytes]
    setattr(body, name, raw.decode("utf-8", "ignore"))


def _read_seconds(value: float, _: WireLimits) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise WireError(f"{value} is no duration")
    return value


def _write_seconds(body: Any, name: str, value: float, limits: WireLimits) -> None:
    setattr(body, name, _read_seconds(value, limits))


# A refusal comes before versions are agreed on, and what is closed is closed: a code of a later
# version still says that.
_LATER_CODES: Final[dict[type[enum.IntEnum], enum.IntEnum]] = {
    RefuseCode: RefuseCode.UNAVAILABLE,
    TunnelCode: TunnelCode.CLOSED,
}


def _enum_reader(cls: type[enum.IntEnum]) -> Callable[[Any, WireLimits], enum.IntEnum]:
    members = {int(member): member for member in cls}

    def read(value: Any, _: WireLimits) -> enum.IntEnum:
        member = members.get(value.raw)
        if member is None:
            if cls in _LATER_CODES:
                return _LATER_CODES[cls]
            raise WireError(f"{value.raw} is no {cls.__name__}")
        return member

    return read


def _write_enum(body: Any, name: str, value: enum.IntEnum, _: WireLimits) -> None:
    setattr(body, name, int(value))


def _struct_reader(cls: type[msgspec.Struct]) -> Callable[[Any, WireLimits], msgspec.Struct]:
    names = [(name, _camel(name)) for name in cls.__struct_fields__]

    def read(value: Any, _: WireLimits) -> msgspec.Struct:
        return cls(**{name: getattr(value, wire) for name, wire in names})

    return read


def _write_struct(body: Any, name: str, value: msgspec.Struct, _: WireLimits) -> None:
    target = body.init(name)
    for field in value.__struct_fields__:
        setattr(target, _camel(field), getattr(value, field))


def _lanes_reader(cls: type[msgspec.Struct]) -> Callable[[Any, WireLimits], tuple[Any, ...]]:
    read_one = _struct_reader(cls)

    def read(value: Any, limits: WireLimits) -> tuple[Any, ...]:
        if len(value) != LANES:
            raise WireError(f"{len(value)} lanes, must be {LANES}")
        return tuple(read_one(one, limits) for one in value)

    return read


def _write_lanes(body: Any, name: str, value: Sequence[msgspec.Struct], _: WireLimits) -> None:
    if len(value) != LANES:
        raise WireError(f"{len(value)} lanes, must be {LANES}")
    target = body.init(name, LANES)
    for index, lane in enumerate(value):
        for field in lane.__struct_fields__:
            setattr(target[index], _camel(field), getattr(lane, field))


def _some_lanes_reader(cls: type[msgspec.Struct]) -> Callable[[Any, WireLimits], tuple[Any, ...]]:
    read_all = _lanes_reader(cls)

    def read(value: Any, limits: WireLimits) -> tuple[Any, ...]:
        return read_all(value, limits) if len(value) else ()

    return read


def _write_some_lanes(
    body: Any, name: str, value: Sequence[msgspec.Struct], limits: WireLimits
) -> None:
    if value:
        _write_lanes(body, name, value, limits)


def _read_keys(value: Any, limits: WireLimits) -> tuple[bytes, ...]:
    if len(value) > limits.keys:
        raise WireError(f"{len(value)} keys, limit {limits.keys}")
    found = tuple(bytes(key) for key in value)
    for key in found:
        if len(key) > limits.key_bytes:
            raise WireError(f"a key of {len(key)} bytes, limit {limits.key_bytes}")
    return found


def _write_keys(body: Any, name: str, value: Sequence[bytes], limits: WireLimits) -> None:
    if value:
        setattr(body, name, list(_read_keys(value, limits)))


def _read_numbers(value: Any, limits: WireLimits) -> tuple[int, ...]:
    if len(value) > limits.numbers:
        raise WireError(f"{len(value)} numbers, limit {limits.numbers}")
    return tuple(value)


def _write_numbers(body: Any, name: str, value: Sequence[int], limits: WireLimits) -> None:
    if value:
        setattr(body, name, list(_read_numbers(value, limits)))


class _Field(NamedTuple):
    name: str
    wire: str
    read: Callable[[Any, WireLimits], Any]
    write: Callable[[Any, str, Any, WireLimits], None]


@functools.cache
def _plan(cls: type[Message]) -> tuple[_Field, ...]:
    hints = get_type_hints(cls)
    return tuple(
        _Field(field.name, _camel(field.name), *_ways(hints[field.name], field.default))
        for field in msgspec.structs.fields(cls)
        if field.name != "payload"
    )


def _ways(hint: Any, default: Any) -> tuple[Callable[..., Any], Callable[..., None]]:
    if hint == tuple[bytes, ...]:
        return _read_keys, _write_keys
    if hint == tuple[int, ...]:
        return _read_numbers, _write_numbers
    if get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,):
        return _some_lanes_reader(get_args(hint)[0]), _write_some_lanes
    if get_origin(hint) is tuple:
        return _lanes_reader(get_args(hint)[0]), _write_lanes
    if hint is bytes and default == b"":
        return _read_some_id, _write_some_id
    if hint is bytes:
        return _read_id, _write_id
    if hint is str:
        return _read_text, _write_text
    if hint is float:
        return _read_seconds, _write_seconds
    if issubclass(hint, enum.IntEnum):
        return _enum_reader(hint), _write_enum
    if issubclass(hint, msgspec.Struct):
        return _struct_reader(hint), _write_struct
    return _read_plain, _write_plain


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _kinds(base: type[Message]) -> list[type[Message]]:
    """The classes of messages: those nothing is derived from."""
    derived = base.__subclasses__()
    return [kind for cls in derived for kind in _kinds(cls)] or [base]


KINDS: Final = tuple(_kinds(Message))
_CLASS_OF: Final[dict[str, type[Message]]] = {
    cls.__name__[0].lower() + cls.__name__[1:]: cls for cls in KINDS
}
_KIND_OF: Final = {cls: kind for kind, cls in _CLASS_OF.items()}


@functools.cache
def _schema() -> Any:
    """Load Cap'n Proto on first use: 4 MB that a purely local program never needs."""
    import capnp

    capnp.remove_import_hook()
    return capnp.load(str(Path(__file__).parent / "schema" / "link.capnp"))


@functools.cache
def _kj_exception() -> type[Exception]:
    import capnp

    return capnp.KjException  # type: ignore[no-any-return]


def _first_line(error: Exception) -> str:
    # KJ appends a native stack trace on further lines.
    return str(error).partition("\n")[0]


def _refusal(message: Message, field: str, error: Exception) -> WireError:
    return WireError(f"{type(message).__name__}.{field}: {_first_line(error)}")
