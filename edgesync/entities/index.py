"""Which relations lead to an entity and which alarms are its own, without a look at all.  [sans-IO]

Keys say what an entity leads to; who asks for the other direction would read all of its edge. An
index is made with the first question. From then on what has changed is noted, which costs next to
nothing, and read with the next question. So a change that is taken back at once does no harm; who
has the index lets it `forget` where keys change and nobody says which.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final

from edgesync.entities.alarms import originator_of
from edgesync.entities.keys import ALARM, RELATION, room_of
from edgesync.entities.model import EntityId
from edgesync.entities.relations import end_of
from edgesync.entities.view import View
from edgesync.errors import RecordError

# Where so many keys change before somebody asks, all are read anew.
CHANGED_MAX: Final = 10_000


class EntityIndex:
    """See the module."""

    def __init__(self, view: View, edge: str) -> None:
        self._relations = _Room(view, room_of(RELATION, edge), _ends)
        self._alarms = _Room(view, room_of(ALARM, edge), lambda *at: _originators(edge, *at))

    def note(self, key: bytes) -> None:
        """A key has changed, or perhaps has."""
        self._relations.note(key)
        self._alarms.note(key)

    def forget(self) -> None:
        """Any key may have changed."""
        self._relations.forget()
        self._alarms.forget()

    def catch_up(self, count: int) -> bool:
        """Read some keys of what the next question would; return whether there are more."""
        return self._relations.catch_up(count) or self._alarms.catch_up(count)

    def relations_to(self, to: EntityId) -> list[bytes]:
        """Return the keys that hold relations to an entity, in order."""
        return self._relations.keys(end_of(to))

    def alarms_of(self, originator: EntityId) -> list[bytes]:
        """Return the keys of an entity's alarms, in order."""
        return self._alarms.keys(end_of(originator))


class _Room:
    """The keys of a room by the ends that each of them names."""

    def __init__(
        self, view: View, prefix: bytes, ends: Callable[[View, bytes], frozenset[bytes]]
    ) -> None:
        self._view, self._prefix, self._ends_at = view, prefix, ends
        self._changed: set[bytes] | None = None  # since the last question; None: nothing is known
        self._listed: bytes | None = None  # up to where keys were read for the first time
        self._is_listed = False
        self._ends: dict[bytes, frozenset[bytes]] = {}
        self._keys: dict[bytes, set[bytes]] = {}

    def note(self, key: bytes) -> None:
        if self._changed is not None and key.startswith(self._prefix):
            self._changed.add(key)
            if len(self._changed) > CHANGED_MAX:
                self.forget()

    def forget(self) -> None:
        self._changed, self._listed, self._is_listed = None, None, False
        self._ends, self._keys = {}, {}

    def keys(self, end: bytes) -> list[bytes]:
        while self.catch_up(CHANGED_MAX):
            pass
        return sorted(self._keys.get(end, ()))

    def catch_up(self, count: int) -> bool:
        if self._changed is None:
            self._changed = set()
        if not self._is_listed:
            found = list(islice(self._view.keys(self._prefix, self._listed), count))
            self._changed.update(found)
            self._is_listed = len(found) < count
            self._listed = found[-1] if found else None
        for _ in range(min(count, len(self._changed))):
            self._read(self._changed.pop())
        return not self._is_listed or bool(self._changed)

    def _read(self, key: bytes) -> None:
        before = self._ends.pop(key, frozenset())
        try:
            now = self._ends_at(self._view, key)
        except RecordError:  # A damaged row says nothing: I8.
            now = frozenset()
        for end in before - now:
            self._keys[end].discard(key)
            if not self._keys[end]:
                del self._keys[end]
        for end in now - before:
            self._keys.setdefault(end, set()).add(key)
        if now:
            self._ends[key] = now


def _ends(view: View, key: bytes) -> frozenset[bytes]:
    fields = (field.partition(b"\0") for field in view.fields(key))
    return frozenset(mark + end for _, mark, end in fields)


def _originators(edge: str, view: View, key: bytes) -> frozenset[bytes]:
    about = view.field(key, b"about") if view.is_there(key) else None
    one = originator_of(edge, about)
    return frozenset() if one is None else frozenset([end_of(one)])
