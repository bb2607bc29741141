"""Changes of keys as they happen: by commands, by pages of the hub, by deadlines.

Every change carries an event, as Redis' keyspace notifications name them: that of the command, or
for what came from another site that of the type (`set`, `hset`, `rpush`, `sadd`, `zadd`, `del`).
Nothing is noted while nobody listens.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from edgesync._native.cells import Entry
from edgesync._native.keyspace import HASH, LIST, SET, STRING, ZSET, Keyspace

if TYPE_CHECKING:
    from edgesync._native.overlay import Overlay

EVENTS_OF_COMMANDS: Final = {
    name: event
    for event, names in {
        "set": "setnx setex psetex mset msetnx getset", "incrby": "incr decr decrby",
        "del": "getdel unlink", "expire": "pexpire expireat pexpireat getex",
        "hset": "hmset hsetnx", "lpush": "lpushx", "rpush": "rpushx", "copy_to": "copy",
        "sortstore": "sort",
    }.items()
    for name in names.split()
}  # fmt: skip
# Events of the first and the second key, for commands that take from one and give to the other.
TWO_KEYS: Final = {
    "rename": ("rename_from", "rename_to"), "renamenx": ("rename_from", "rename_to"),
    "smove": ("srem", "sadd"), "rpoplpush": ("rpop", "lpush"),
}  # fmt: skip
# Commands that change keys they do not name.
UNNAMED: Final = frozenset({"flushdb", "flushall", "eval", "evalsha", "resolve"})
ENDS: Final = frozenset({"del", "rename_from", "expired"})
OF_TYPES: Final = {STRING: "set", HASH: "hset", LIST: "rpush", SET: "sadd", ZSET: "zadd"}


class Change(NamedTuple):
    """One change of one key. `is_remote`: another site made it; it may stand for several there."""

    key: bytes
    event: str
    is_remote: bool = False


Listener = Callable[[Sequence[Change]], None]


class Changes:
    """Who listens, and what there is to be said to them."""

    def __init__(self, rows: "Overlay", space: Keyspace, arm: Callable[[bool], None]) -> None:
        self._rows, self._space, self._arm = rows, space, arm
        self._listeners: list[Listener] = []

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with all changes from here on, before anything else happens to a key."""
        self._listeners.append(listener)
        self._note()

    def leave(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
        self._note()

    def _note(self) -> None:
        if not self._listeners:
            self._rows.touched = None
        elif self._rows.touched is None:
            self._rows.touched = set()
        self._arm(bool(self._listeners))

    def _touched(self) -> list[bytes]:
        touched = self._rows.touched
        if not touched:
            return []
        keys = [row[1:] for row in touched if row.startswith(b"k")]
        touched.clear()
        return keys

    def _announce(self, changes: Sequence[Change]) -> None:
        if changes:
            for listener in list(self._listeners):
                listener(changes)

    def by_command(self, name: str, request: Sequence[bytes]) -> None:
        """Tell of what a command has just changed."""
        keys = self._touched()
        if name not in UNNAMED:
            # In the order of their names; a value left to the hub to make room is no change.
            places = {key: at for at, key in reversed(list(enumerate(request)))}
            keys = sorted((key for key in keys if key in places), key=places.__getitem__)
        found: list[Change] = []
        for key in keys:
            event = self._event(name, request, key)
            found.append(Change(key, event))
            if event not in ENDS and not self._space.type_of(key):
                found.append(Change(key, "del"))
        self._announce(found)

    def _event(self, name: str, request: Sequence[bytes], key: bytes) -> str:
        if name in TWO_KEYS:
            return TWO_KEYS[name][key != request[1]]
        if name == "lmove":
            is_source = key == request[1]
            side = request[3 if is_source else 4].lower()[:1].decode(errors="replace")
            return side + ("pop" if is_source else "push")
        if name in ("eval", "evalsha", "resolve"):
            return OF_TYPES.get(self._space.type_of(key), "del")
        if name == "lmpop":
            return "lpop" if b"left" in [word.lower() for word in request[-3:]] else "rpop"
        if name == "zmpop":
            return "zpopmin" if b"min" in [word.lower() for word in request[-3:]] else "zpopmax"
        return EVENTS_OF_COMMANDS.get(name, name)

    # -- from other sites ----------------------------------------------------------------------

    def before(self, entries: Iterable[Entry]) -> dict[bytes, object]:
        """Return how the keys of a page are now; empty while nobody listens."""
        if not self._listeners:
            return {}
        self._touched()
        return {entry.key: self._shown(entry) for entry in entries}

    def after(self, entries: Collection[Entry], before: dict[bytes, object]) -> None:
        """Tell of what a page has changed: our own writes come back with it, and are no news."""
        if not self._listeners:
            return
        found: list[Change] = []
        for entry in entries:
            was, now = before.pop(entry.key, None), self._shown(entry)
            if was != now:
                kind = self._space.type_of(entry.key)
                found.append(Change(entry.key, OF_TYPES.get(kind, "del"), is_remote=True))
        looked_at = {entry.key for entry in entries}
        for key in self._touched():  # what the hub does not have any more
            if key not in looked_at and not self._space.type_of(key):
                found.append(Change(key, "del", is_remote=True))
        self._announce(found)

    def _shown(self, entry: Entry) -> object:
        """Return what tells whether a page changed a key: which writes it shows."""
        space, key = self._space, entry.key
        kind = space.type_of(key)
        if not kind:
            return None
        cells = tuple(
            frozenset((dot.r, dot.n) for dot in space.siblings(key, name))
            for name, _ in entry.cells
        )
        # Beside a string there may be cells of a collection, which another site made of the key.
        size = 0 if kind == STRING else space.count(key, kind)
        return kind, space.deadline(key), size, cells

    def expired(self, keys: Sequence[bytes]) -> None:
        """Tell of keys whose deadline has passed."""
        self._touched()
        self._announce([Change(key, "expired") for key in keys])

    def emptied(self) -> None:
        """Forget what was touched in ways that are no changes."""
        self._touched()
