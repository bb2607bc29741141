"""Publishing and subscribing among the clients of this node."""

import re
from typing import TYPE_CHECKING, Final

from edgesync._native.resp import Push, ReplyError
from edgesync.cells.commands.table import glob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgesync._native.glob import Glob
    from edgesync.serve.resp.session import Session


# Every pattern somebody listens to is held against the name of each message.
CHANNEL_BYTES_MAX: Final = 1024
# Of channels, and of patterns, of one client.
NAMES_MAX: Final = 1000


def _check(name: bytes) -> None:
    if len(name) > CHANNEL_BYTES_MAX:
        raise ReplyError(f"ERR a channel of {len(name)} bytes; at most {CHANNEL_BYTES_MAX}")


# Channels of keyspace notifications, by the letter that switches them on.
OF_KEYS: Final = {"K": b"__keyspace@", "E": b"__keyevent@"}


def kinds_of(name: bytes) -> list[str]:
    """Return which keyspace notifications a channel or pattern is meant for; none for most."""
    begun = _begin(name)
    return [
        kind for kind, channel in OF_KEYS.items()
        if begun.startswith(channel) or (len(begun) >= 5 and channel.startswith(begun))
    ]  # fmt: skip


def is_general(pattern: bytes) -> bool:
    """Return whether a pattern such as `*` fits keyspace notifications without meaning them."""
    begun = _begin(pattern)
    return (
        begun != pattern
        and not kinds_of(pattern)
        and any(channel.startswith(begun) for channel in OF_KEYS.values())
    )


def _begin(name: bytes) -> bytes:
    return re.split(rb"[*?\[\\]", name, maxsplit=1)[0]


class Channels:
    """The channels and patterns that clients subscribe to."""

    def __init__(self) -> None:
        self.of_keys = 0  # channels and patterns of keyspace notifications
        self.general = 0  # patterns that fit them, too
        self.on_of_keys: Callable[[], None] = lambda: None
        self._channels: dict[bytes, set[Session]] = {}
        self._patterns: dict[bytes, tuple[Glob, set[Session]]] = {}

    def check_room(
        self, session: "Session", names: "Sequence[bytes]", *, is_pattern: bool = False
    ) -> None:
        """Raise ReplyError if a client would listen to too many."""
        held = session.patterns if is_pattern else session.subscribed
        if len(held.union(names)) > NAMES_MAX:
            kind = "patterns" if is_pattern else "channels"
            raise ReplyError(f"ERR too many {kind}: at most {NAMES_MAX} of one client")

    def join(self, session: "Session", name: bytes, *, is_pattern: bool = False) -> Push:
        if name not in (self._patterns if is_pattern else self._channels):
            self._count(name, is_pattern, 1)
        if is_pattern:
            self._patterns.setdefault(name, (glob(name), set()))[1].add(session)
            session.patterns.add(name)
        else:
            _check(name)
            self._channels.setdefault(name, set()).add(session)
            session.subscribed.add(name)
        return self._answer(session, b"subscribe", name, is_pattern)

    def part(self, session: "Session", name: bytes | None, *, is_pattern: bool = False) -> Push:
        if name is not None:
            self._drop(session, name, is_pattern)
        return self._answer(session, b"unsubscribe", name, is_pattern)

    def _answer(
        self, session: "Session", word: bytes, name: bytes | None, is_pattern: bool
    ) -> Push:
        word = b"p" + word if is_pattern else word
        return Push([word, name, len(session.subscribed) + len(session.patterns)])

    def _drop(self, session: "Session", name: bytes, is_pattern: bool) -> None:
        if is_pattern and name in self._patterns:
            self._patterns[name][1].discard(session)
            if not self._patterns[name][1]:
                del self._patterns[name]
                self._count(name, is_pattern, -1)
        elif not is_pattern and name in self._channels:
            self._channels[name].discard(session)
            if not self._channels[name]:
                del self._channels[name]
                self._count(name, is_pattern, -1)
        (session.patterns if is_pattern else session.subscribed).discard(name)

    def _count(self, name: bytes, is_pattern: bool, by: int) -> None:
        if kinds_of(name):
            self.of_keys += by
        elif is_pattern and is_general(name):
            self.general += by
        else:
            return
        self.on_of_keys()

    def leave(self, session: "Session") -> None:
        """Forget a client that is gone."""
        for name in list(session.subscribed):
            self._drop(session, name, is_pattern=False)
        for name in list(session.patterns):
            self._drop(session, name, is_pattern=True)

    def publish(self, name: bytes, message: bytes, *, to_general: bool = True) -> int:
        """Send to all who listen; returns how many got it.

        to_general  also to patterns that fit keyspace notifications without meaning them
        """
        _check(name)
        heard = 0
        for session in list(self._channels.get(name, ())):
            session.send(Push([b"message", name, message]))
            heard += 1
        for pattern, (matcher, sessions) in list(self._patterns.items()):
            if (to_general or not is_general(pattern)) and matcher.matches(name):
                for session in list(sessions):
                    session.send(Push([b"pmessage", pattern, name, message]))
                    heard += 1
        return heard

    def names(self) -> list[bytes]:
        return sorted(self._channels)

    def count(self, name: bytes) -> int:
        return len(self._channels.get(name, ()))

    def patterns_count(self) -> int:
        return len(self._patterns)
