"""Sessions, which outlive connections: subscriptions, messages under way, the will.   [sans-IO]

Sessions are in memory. After a restart of the edge none is present, and clients are told so; what
they had published and was acknowledged is in the store.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from edgesync.serve.holdings import Holdings
from edgesync.serve.mqtt.packets import Property, Publish, TrackedPublish, Will

if TYPE_CHECKING:
    import collections

PACKET_ID_MAX: Final = 65_535
# The device that it proved to be, and the client id that it named.
SessionKey = tuple[str, str]


class Session:
    """The state of one client, by the identity it proved and the client id it named.

    subscriptions  topic filter -> QoS that was granted
    unacked        messages sent to the client that it has not acknowledged, by packet id, in order
    received       packet ids of QoS 2 that the client has not released -> is it stored
    dropped        messages for which there was no room
    """

    __slots__ = ("dropped", "expires_at", "key", "last_id", "queue", "received", "subscriptions",
                 "unacked", "will", "will_at")  # fmt: skip

    def __init__(self, key: SessionKey) -> None:
        self.key = key
        self.subscriptions: dict[str, int] = {}
        self.unacked: dict[int, Publish] = {}
        self.queue: collections.deque[Publish] | None = None  # few need one
        self.received: dict[int, bool] = {}
        self.last_id = 0
        self.dropped = 0
        self.expires_at = float("inf")
        self.will: Will | None = None
        self.will_at = float("inf")

    def forget_tracked(self) -> None:
        """Forget messages that somebody sends again once the client is back.

        They may have been given up by then, which a session does not know.
        """
        for packet_id, message in list(self.unacked.items()):
            if isinstance(message, TrackedPublish):
                del self.unacked[packet_id]
        if self.queue:
            kept = [one for one in self.queue if not isinstance(one, TrackedPublish)]
            self.queue.clear()
            self.queue.extend(kept)

    def next_packet_id(self) -> int:
        while True:
            self.last_id = self.last_id % PACKET_ID_MAX + 1
            if self.last_id not in self.unacked:
                return self.last_id


class Sessions:
    """All sessions; of those without a connection at most `offline_max` are kept (I7).

    Beyond, the device that has most of them loses its oldest.
    """

    def __init__(self, offline_max: int) -> None:
        self._offline_max = offline_max
        self._by_device = Holdings[SessionKey]()
        self._online: dict[SessionKey, Session] = {}
        self._offline: dict[SessionKey, Session] = {}  # the first was left first

    def __len__(self) -> int:
        return len(self._online) + len(self._offline)

    def open(self, key: SessionKey, *, clean: bool) -> tuple[Session, bool, Will | None]:
        """Return the session for a new connection, whether it was there, and a will now due.

        The will of a session that goes on is cancelled; that of one that ends is due (3.1.3.2.2).
        """
        known = self._offline.pop(key, None)
        self._by_device.remove(key[0], key)
        will = None
        if known is not None:
            known.expires_at = known.will_at = float("inf")
            will, known.will = known.will, None
        if known is None or clean:
            self._online[key] = session = Session(key)
            return session, False, will
        self._online[key] = known
        return known, True, None

    def release(
        self, session: Session, expiry_s: float, will: Will | None, now: float
    ) -> list[Will]:
        """Keep a session whose connection has ended for `expiry_s`; returns wills that are due."""
        if self._online.get(session.key) is session:
            del self._online[session.key]
        delay_s = 0
        if will is not None:
            found = will.properties.get(Property.WILL_DELAY, 0)
            assert isinstance(found, int)
            delay_s = found
        due = [will] if will is not None and min(delay_s, expiry_s) <= 0 else []
        if expiry_s <= 0:
            return due
        if will is not None and not due:
            session.will, session.will_at = will, now + min(delay_s, expiry_s)
        session.expires_at = now + expiry_s
        self._offline[session.key] = session
        self._by_device.add(session.key[0], session.key)
        while len(self._offline) > self._offline_max:
            oldest = self._offline.pop(next(iter(self._by_device.most())))
            self._by_device.remove(oldest.key[0], oldest.key)
            due += [oldest.will] if oldest.will is not None else []
        return due

    def expire(self, now: float) -> Iterator[tuple[Session, Will]]:
        """Forget what has expired; yields the wills that are due."""
        for session in list(self._offline.values()):
            if session.will is not None and now >= session.will_at:
                will, session.will, session.will_at = session.will, None, float("inf")
                yield session, will
            if now >= session.expires_at:
                del self._offline[session.key]
                self._by_device.remove(session.key[0], session.key)
