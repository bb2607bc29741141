"""How the model reads keys, those of an edge or of the hub.   [sans-IO]"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from edgesync._native.clock import wall_ms_of
from edgesync._native.keyspace import HASH
from edgesync.entities.model import MS_MAX, SHOWN
from edgesync.errors import EntityError, RecordError

if TYPE_CHECKING:
    from edgesync._native.keyspace import Keyspace

LOOKED_AT: Final = 1000
# An eighth of the room that was left may be taken before it is looked at again.
COUNTED_AGAIN: Final = 8
PREFIXES_MAX: Final = 1000

Command = list[bytes]


class View(Protocol):
    """Keys as they are now."""

    def fields(self, key: bytes) -> dict[bytes, bytes]:
        """Return a hash; empty when it is absent, or when some client made something else of it."""
        ...

    def field(self, key: bytes, name: bytes) -> bytes | None:
        """Return one field of a hash that is there."""
        ...

    def changeable(self, key: bytes) -> dict[bytes, bytes]:
        """Return a hash that is to be changed; raises EntityError when it is none."""
        ...

    def is_there(self, key: bytes) -> bool:
        """Return whether there is a key of any type."""
        ...

    def stamps_ms(self, key: bytes) -> dict[bytes, int]:
        """Return when each field was written, by the clock of who wrote it."""
        ...

    def keys(self, prefix: bytes, after: bytes | None = None) -> Iterator[bytes]:
        """Yield present hashes with a prefix that can be read, behind `after`, in order."""
        ...

    def was_removed(self, key: bytes) -> bool:
        """Return whether a key was there and is not; of one removed long ago nobody knows."""
        ...

    def count(self, prefix: bytes, most: int) -> int:
        """Return about how many keys have a prefix, `most` if there are more."""
        ...


class SpaceView:
    """The keys of a keyspace, at the time that `now_ms` tells."""

    def __init__(self, space: "Keyspace", now_ms: Callable[[], int]) -> None:
        self._space = space
        self._now_ms = now_ms
        # Of a prefix: how many keys there were, and how often that was asked since.
        self._counts: dict[bytes, tuple[int, int]] = {}

    def fields(self, key: bytes) -> dict[bytes, bytes]:
        return dict(self._space.cells(key, HASH)) if self._type_of(key) == HASH else {}

    def field(self, key: bytes, name: bytes) -> bytes | None:
        return self._space.get(key, b"h" + name)

    def changeable(self, key: bytes) -> dict[bytes, bytes]:
        if self._type_of(key) not in (0, HASH):
            shown = key[:SHOWN].decode(errors="replace")
            raise EntityError("key", f"{shown} is no hash", "remove what some client made of it")
        return self.fields(key)

    def is_there(self, key: bytes) -> bool:
        return bool(self._type_of(key))

    def _type_of(self, key: bytes) -> int:
        self._space.now_ms = self._now_ms()
        return self._space.type_of(key)

    def stamps_ms(self, key: bytes) -> dict[bytes, int]:
        found = {}
        for name in self.fields(key):
            dots = self._space.siblings(key, b"h" + name)
            found[name] = min(MS_MAX, wall_ms_of(max((dot.hlc for dot in dots), default=0)))
        return found

    def keys(self, prefix: bytes, after: bytes | None = None) -> Iterator[bytes]:
        space = self._space
        while names := space.names(after, prefix, LOOKED_AT):
            space.now_ms = self._now_ms()
            yield from (name for name in names if self._is_hash(name))
            after = names[-1]

    def _is_hash(self, key: bytes) -> bool:
        try:
            return self._space.type_of(key) == HASH
        except RecordError:  # one that is damaged hides no other
            return False

    def was_removed(self, key: bytes) -> bool:
        return self._space.names(None, key, 1) == [key] and not self.is_there(key)

    def count(self, prefix: bytes, most: int) -> int:
        # Who asks is about to add one. To count all of them each time would make the last of many
        # cost what all before it did, so that is done anew the sooner the nearer the limit is.
        counted, added = self._counts.get(prefix, (most, 0))
        if added >= (most - counted) // COUNTED_AGAIN:
            if len(self._counts) >= PREFIXES_MAX:
                self._counts.clear()
            counted, added = len(self._space.names(None, prefix, most)), 0
        self._counts[prefix] = (counted, added + 1)
        return counted + added


def set_fields(key: bytes, fields: Mapping[bytes, bytes]) -> list[Command]:
    """Return the command that sets fields of a hash; none for no fields."""
    if not fields:
        return []
    return [[b"HSET", key, *(part for pair in fields.items() for part in pair)]]


def delete_fields(key: bytes, names: Iterable[bytes]) -> list[Command]:
    """Return the command that removes fields of a hash; none for no fields."""
    found = list(names)
    return [[b"HDEL", key, *found]] if found else []
