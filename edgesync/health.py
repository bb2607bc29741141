"""What an operator should look at, of an edge: numbers and their bounds (S27).       [sans-IO]

The hub shows the same bounds (hubd/api/health.py), and hubd/alerts.yml alerts on them.
"""

from collections.abc import Iterator

from edgesync.bounds import (
    ACK_WARNING_S,
    CLOCK_WARNING_S,
    FLAPPING_S,
    FLAPPING_SESSIONS,
    FULL_CRITICAL,
    FULL_WARNING,
    LAG_CRITICAL_RECORDS,
    LAG_CRITICAL_S,
    LAG_WARNING_RECORDS,
    LAG_WARNING_S,
)
from edgesync.status import Indicator, LaneStatus, Level, Status


def indicators(status: Status) -> list[Indicator]:
    """Return what is out of bounds, the worst first."""
    found = [*_store(status), *_clock(status)]
    found += [Indicator("door", "warning", problem) for problem in status.closed_doors]
    if status.link.endpoint:  # without a hub nothing waits for one
        found += [*_queue(status), *_link(status)]
    return sorted(found, key=lambda one: one.level != "critical")


def _queue(status: Status) -> Iterator[Indicator]:
    pending, waited_s = status.pending, status.oldest_pending_s or 0.0
    if pending >= LAG_WARNING_RECORDS:
        level: Level = "critical" if pending > LAG_CRITICAL_RECORDS else "warning"
        yield Indicator("queue", level, f"{pending} records wait for the hub")
    if pending and waited_s >= LAG_WARNING_S:
        level = "critical" if waited_s > LAG_CRITICAL_S else "warning"
        yield Indicator("latency", level, f"the oldest of them waits for {waited_s:.0f} s")
    if pending > LAG_CRITICAL_RECORDS and not status.link.epoch:
        yield Indicator(
            "offline", "critical", f"no session with the hub, and {pending} records for it"
        )


def _link(status: Status) -> Iterator[Indicator]:
    link = status.link
    if link.sessions_recent > FLAPPING_SESSIONS:
        minutes = FLAPPING_S / 60
        yield Indicator(
            "flapping", "warning", f"{link.sessions_recent} sessions in {minutes:.0f} minutes"
        )
    slow = max((lane.ack_p99_s or 0.0 for lane in status.lanes), default=0.0)
    if slow > ACK_WARNING_S:
        yield Indicator("acks", "warning", f"one batch of a hundred is stored after {slow:.1f} s")


def _clock(status: Status) -> Iterator[Indicator]:
    offset_s = status.link.clock_offset_s or 0.0
    if abs(offset_s) >= CLOCK_WARNING_S:
        side = "ahead of" if offset_s > 0 else "behind"
        text = f"the clock is {abs(offset_s):.0f} s {side} the hub's; set up NTP"
        yield Indicator("clock", "warning", text)


def _store(status: Status) -> Iterator[Indicator]:
    used = status.store.used_bytes / max(status.store.limit_bytes, 1)
    if used >= FULL_WARNING:
        level: Level = "critical" if used >= FULL_CRITICAL else "warning"
        text = f"the store is {used:.0%} full; at 90 % new readings are refused: [store] limit"
        yield Indicator("store", level, text)
    for lane in status.lanes:
        if lane.filled >= FULL_WARNING:
            yield Indicator("lane", "warning", _filled(lane))


def _filled(lane: LaneStatus) -> str:
    return f"the lane {lane.lane} is {lane.filled:.0%} full; then it does as `overflow` says"
