"""Which events a device is worth: each change of its state, but at most one a minute.   [sans-IO]

A device that comes and goes every second is one event a minute with the number of changes, and
one line in the log; what it is now, the status says at any time.
"""

from typing import Final

from edgesync.sources.base import SourceState

EVERY_S: Final = 60.0
# An event names at most this many points: its body is bounded, and so is the reader's patience.
NAMES_MAX: Final = 100

Body = dict[str, object]


class Notices:
    """The state and the unread points of one device, as events told them last."""

    def __init__(self) -> None:
        self._state: SourceState | None = None
        self._is_told = False
        self._pending: tuple[Body, int] | None = None
        self._changes = 0
        self._next_state_s = float("-inf")
        self._next_points_s = float("-inf")
        self._points: frozenset[str] = frozenset()
        # What was so before the newest was taken, for `put_back`.
        self._before: tuple[tuple[Body, int] | None, int, frozenset[str]] = None, 0, self._points

    @property
    def state(self) -> SourceState | None:
        """The newest state, whether it was told or not."""
        return self._state

    @property
    def next_s(self) -> float | None:
        """When a change that waits may be told; None if none does."""
        return None if self._pending is None else self._next_state_s

    def change(self, state: SourceState, now_ns: int, reason: str = "") -> None:
        """Note that the device is in `state` now."""
        if state is self._state:
            return
        self._state = state
        self._changes += 1
        body: Body = {"state": str(state)}
        if reason:
            body["reason"] = reason
        if self._changes > 1:
            body["changes"] = self._changes
        self._pending = (body, now_ns)

    def take_state(self, now_s: float, unread: dict[str, str]) -> tuple[Body, int] | None:
        """Return what to tell of the state and when it changed, if it may be told now.

        Each event is complete: the newest one of a device says how it is.
        """
        if self._pending is None or now_s < self._next_state_s:
            return None
        self._before = self._pending, self._changes, self._points
        (body, time_ns), self._pending, self._changes = self._pending, None, 0
        if self._is_told:
            self._next_state_s = now_s + EVERY_S
        self._is_told = True
        if unread and self._state is SourceState.ONLINE:
            self._points = frozenset(unread)
            body = body | _listed(unread)
        return body, time_ns

    def take_points(self, unread: dict[str, str], now_s: float) -> Body | None:
        """Return what to tell of points that are not read, if that changed and may be told."""
        if not unread and not self._points:
            return None
        names = frozenset(unread)
        if names == self._points or now_s < self._next_points_s:
            return None
        self._before = None, 0, self._points
        self._points, self._next_points_s = names, now_s + EVERY_S
        return {"state": str(self._state)} | _listed(unread)

    def put_back(self, now_s: float) -> None:
        """Tell what was taken last in a minute, or what is newer then: it is not stored."""
        pending, changes, self._points = self._before
        self._pending = self._pending or pending
        self._changes += changes
        self._next_state_s = self._next_points_s = now_s + EVERY_S


def _listed(unread: dict[str, str]) -> Body:
    names = sorted(unread)[:NAMES_MAX]
    body: Body = {"invalid": names, "reasons": {name: unread[name] for name in names}}
    if len(unread) > NAMES_MAX:
        body["more"] = len(unread) - NAMES_MAX
    return body
