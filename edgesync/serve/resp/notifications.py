"""Keyspace notifications: what changed, published to whoever subscribes to it.

Also what other sites changed is told; see edgesync/cells/changes.py for the names of events.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from edgesync._native.resp import ReplyError
from edgesync.cells.changes import Change
from edgesync.serve.resp.channels import kinds_of

if TYPE_CHECKING:
    from edgesync.serve.resp.session import House

CLASSES: Final = "Ag$lshzxetdnKEm"
ALL: Final = "g$lshzxetd"  # what `A` stands for
GENERIC: Final = frozenset(
    {"del", "expire", "persist", "rename_from", "rename_to", "copy_to", "sortstore"}
)
STRINGS: Final = frozenset({"set", "incrby", "incrbyfloat", "append", "setrange", "setbit"})
UNTOLD: Final = frozenset({"flushdb", "flushall"})
BY_FIRST: Final = {"h": "h", "l": "l", "r": "l", "s": "s", "z": "z"}


def class_of(event: str) -> str:
    """Return the letter of an event's class in `notify-keyspace-events`."""
    if event in GENERIC:
        return "g"
    if event == "expired":
        return "x"
    return "$" if event in STRINGS else BY_FIRST.get(event[:1], "$")


class Notifications:
    """What is switched on; nothing is noted while nobody subscribes to it.

    They are on by default, unlike in Redis: who subscribes to `*` gets them only when a client has
    switched them on.
    """

    def __init__(self, house: "House") -> None:
        self._house = house
        self.flags = ""
        self.is_asked = False  # for by a client
        house.channels.on_of_keys = self._listen

    def configure(self, text: str, *, is_asked: bool = False) -> None:
        """Set the classes of events that are published; raises ReplyError for unknown letters."""
        if set(text) - set(CLASSES):
            raise ReplyError(
                "ERR CONFIG SET failed (possibly related to argument 'notify-keyspace-events') - "
                "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."
            )
        wanted = set(text)
        if "A" in wanted:
            wanted |= set(ALL)
        elif set(ALL) <= wanted:
            wanted.add("A")
        self.flags = "".join(one for one in CLASSES if one in wanted)
        self.is_asked = is_asked
        self._listen()

    def _listen(self) -> None:
        """Listen while something is on and somebody subscribes to it."""
        changes = self._house.cells.changes
        changes.leave(self._changed)
        channels = self._house.channels
        if self.is_on and (channels.of_keys or (self.is_asked and channels.general)):
            changes.listen(self._changed)

    @property
    def is_on(self) -> bool:
        """Whether there is an event that would be published."""
        return bool({"K", "E"} & set(self.flags)) and bool(set(self.flags) - {"K", "E"})

    @property
    def shown(self) -> str:
        """The flags as CONFIG GET has them: `A` for those it stands for."""
        if "A" not in self.flags:
            return self.flags
        return "A" + "".join(one for one in self.flags if one not in ALL and one != "A")

    def check(self, names: Sequence[bytes]) -> None:
        """Refuse to subscribe to what is never published; raises ReplyError."""
        for name in names:
            kinds = kinds_of(name)
            if not kinds:
                continue
            if not self.is_on or not set(kinds) & set(self.flags):
                raise ReplyError(
                    "ERR nothing is published there: switch it on by [cells] "
                    "notify_keyspace_events, or CONFIG SET notify-keyspace-events KEA"
                )
            if name.partition(b"@")[2][:1] not in (b"", b"0", b"*", b"?", b"["):
                raise ReplyError("ERR nothing is published there: an edge has one database, 0")

    def _changed(self, changes: Sequence[Change]) -> None:
        publish = self._house.channels.publish
        for key, event, _ in changes:
            if event in UNTOLD or class_of(event) not in self.flags:
                continue
            name = event.encode()
            if "K" in self.flags:
                publish(b"__keyspace@0__:" + key, name, to_general=self.is_asked)
            if "E" in self.flags:
                publish(b"__keyevent@0__:" + name, key, to_general=self.is_asked)
