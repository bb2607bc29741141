"""Large objects as both sides know them: a name, a SHA-256 and a size, listed and reported.

A hub tells an edge a *listing*: what it is to hold, and what it is to remove. What is in neither
stays as it is (I15). An edge answers with a *report*: which listing it goes by, and how each object
stands. Both are MessagePack arrays, compared by the SHA-256 of their bytes; docs/objects.md has
them.
"""

import enum
import hashlib
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edgesync.errors import RecordError

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"
# Of one edge, and as many again that it is to remove (I7).
OBJECTS_MAX: Final = 200
OBJECT_BYTES_MAX: Final = 1 << 40
PART_BYTES_MAX: Final = 64 * 1024
REASON_CHARS_MAX: Final = 200

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=1, le=OBJECT_BYTES_MAX)]


class ObjectRef(msgspec.Struct, frozen=True, array_like=True):
    """An object: what it is called, the SHA-256 of its bytes as hex, and how many they are."""

    name: Name
    sha256: Sha256
    size: Size


class Listing(msgspec.Struct, frozen=True, array_like=True):
    """What an edge is to hold, by name, and which names it is to remove."""

    wanted: Annotated[tuple[ObjectRef, ...], Meta(max_length=OBJECTS_MAX)] = ()
    removed: Annotated[tuple[Name, ...], Meta(max_length=OBJECTS_MAX)] = ()

    def pack(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def digest(self) -> str:
        """Return the SHA-256 by which two listings are compared, as hex."""
        return hashlib.sha256(self.pack()).hexdigest()


class Standing(enum.StrEnum):
    """How an object stands at an edge."""

    WANTED = "wanted"
    FETCHING = "fetching"
    HELD = "held"
    REFUSED = "refused"
    KEPT = "kept"  # held, and not in the listing


class ObjectState(msgspec.Struct, frozen=True, array_like=True):
    """An object at an edge: `have` of its `size` bytes are there; why it is not fetched, if so."""

    name: Name
    sha256: Sha256
    size: Size
    have: Annotated[int, Meta(ge=0, le=OBJECT_BYTES_MAX)]
    standing: Standing
    reason: Annotated[str, Meta(max_length=REASON_CHARS_MAX)] = ""


States = Annotated[tuple[ObjectState, ...], Meta(max_length=2 * OBJECTS_MAX)]


def listing_of(wanted: Iterable[ObjectRef], removed: Iterable[str] = ()) -> Listing:
    """Return a listing in the one order that it is compared in."""
    return Listing(tuple(sorted(wanted, key=lambda ref: ref.name)), tuple(sorted(set(removed))))


def read_listing(payload: bytes) -> Listing:
    """Return what a hub sent; raises RecordError for what is no listing."""
    try:
        found = msgspec.msgpack.decode(payload, type=Listing)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RecordError(f"not a listing of objects: {error}") from error
    names = [*(ref.name for ref in found.wanted), *found.removed]
    if len(set(names)) != len(names):
        raise RecordError("a listing of objects that has a name twice")
    return found


def pack_states(reports: Iterable[ObjectState]) -> bytes:
    return msgspec.msgpack.encode(tuple(reports))


def read_states(payload: bytes) -> tuple[ObjectState, ...]:
    """Return what an edge sent; raises RecordError for what is no report."""
    try:
        return msgspec.msgpack.decode(payload, type=States)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RecordError(f"not a report of objects: {error}") from error
