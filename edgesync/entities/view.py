"""How the model reads keys, those of an edge or of the hub.   [sans-IO]"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from edgesync._native.clock import wall_ms_of
from edgesync._native.keyspace import HASH
from edgesync.entities.model import MS_MAX, SHOWN
from edgesync.errors import EntityError

if TYPE_CHECKING:
    from edgesync._native.keyspace import Keyspace

LOOKED_AT: Final = 1000

Command = list[bytes]


class View(Protocol):
    """Keys as they are now."""

    def fields(self, key: bytes) -> dict[bytes, bytes]:
        """Return a hash; empty when it is absent."""
        ...

    def stamps_ms(self, key: bytes) -> dict[bytes, int]:
        """Return when each field was written, by the clock of who wrote it."""
        ...

    def keys(self, prefix: bytes, after: bytes | None = None) -> Iterator[bytes]:
        """Yield present hashes with a prefix, behind `after`, in order."""
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

    def fields(self, key: bytes) -> dict[bytes, bytes]:
        space = self._space
        space.now_ms = self._now_ms()
        kind = space.type_of(key)
        if not kind:
            return {}
        if kind != HASH:
            shown = key[:SHOWN].decode(errors="replace")
            raise EntityError("key", f"{shown} is no hash", "remove what some client made of it")
        return dict(space.cells(key, HASH))

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
            yield from (name for name in names if space.type_of(name) == HASH)
            after = names[-1]

    def was_removed(self, key: bytes) -> bool:
        self._space.now_ms = self._now_ms()
        return self._space.names(None, key, 1) == [key] and not self._space.type_of(key)

    def count(self, prefix: bytes, most: int) -> int:
        return len(self._space.names(None, prefix, most))


def set_fields(key: bytes, fields: Mapping[bytes, bytes]) -> list[Command]:
    """Return the command that sets fields of a hash; none for no fields."""
    if not fields:
        return []
    return [[b"HSET", key, *(part for pair in fields.items() for part in pair)]]


def delete_fields(key: bytes, names: Iterable[bytes]) -> list[Command]:
    """Return the command that removes fields of a hash; none for no fields."""
    found = list(names)
    return [[b"HDEL", key, *found]] if found else []
