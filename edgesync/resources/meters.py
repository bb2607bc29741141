"""Figures that are only seen over time: the network's quality, the share of processors."""

from typing import Final

import msgspec

from edgesync.resources.cpu import CpuCounts
from edgesync.resources.levels import Sample

# RFC 6298's shares for the smoothed round trip and its variation.
RTT_SHARE: Final = 1 / 8
VAR_SHARE: Final = 1 / 4
# Of success: the last ten rounds or so.
ROUND_SHARE: Final = 1 / 8
# A round trip so many times the best one is slow: as bad as one level.
SLOW_RTTS: Final = 4.0
SLOW_STALL: Final = 20.0


class NetworkQuality(msgspec.Struct, frozen=True, kw_only=True):
    """What the last round and those before it have shown.

    srtt_s, rttvar_s   smoothed round trip and its mean deviation; None before the first
    success            share of rounds that came through, 0 to 1
    good_rounds        since the last that was lost or slow
    rtt_ratio          the last round trip by the best one
    """

    srtt_s: float | None
    rttvar_s: float
    success: float
    good_rounds: int
    rtt_ratio: float
    was_lost: bool

    def sample(self) -> Sample:
        lost = 100.0 * (1 - self.success)
        stall = SLOW_STALL if self.rtt_ratio > SLOW_RTTS else 0.0
        return Sample(value=self.srtt_s or 0.0, limit=0, percent=lost, strain=lost, stall=stall)


class NetworkMeter:
    """Measures the network by what syncing does over it anyway."""

    def __init__(self) -> None:
        self.quality: NetworkQuality | None = None
        self._best_s = 0.0

    def lost(self) -> None:
        """A round that did not come through."""
        old = self.quality
        self.quality = NetworkQuality(
            srtt_s=old.srtt_s if old else None,
            rttvar_s=old.rttvar_s if old else 0.0,
            success=_toward(old.success, 0.0, ROUND_SHARE) if old else 0.0,
            good_rounds=0,
            rtt_ratio=old.rtt_ratio if old else 1.0,
            was_lost=True,
        )

    def done(self, rtt_s: float) -> None:
        """A round that came through: its round trip."""
        old, rtt_s = self.quality, max(rtt_s, 1e-6)
        self._best_s = min(self._best_s or rtt_s, rtt_s)
        ratio = rtt_s / self._best_s
        srtt_s, var_s = rtt_s, rtt_s / 2
        if old is not None and old.srtt_s is not None:
            var_s = _toward(old.rttvar_s, abs(old.srtt_s - rtt_s), VAR_SHARE)
            srtt_s = _toward(old.srtt_s, rtt_s, RTT_SHARE)
        is_good = ratio <= SLOW_RTTS
        self.quality = NetworkQuality(
            srtt_s=srtt_s,
            rttvar_s=var_s,
            success=_toward(old.success, 1.0, ROUND_SHARE) if old else 1.0,
            good_rounds=(old.good_rounds + 1 if old else 1) if is_good else 0,
            rtt_ratio=ratio,
            was_lost=False,
        )


class CpuMeter:
    """The processors this process uses, of those it may use.

    share   of the allowed processors it should do with: the budget
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._before: tuple[float, float, CpuCounts] | None = None
        self._cores = 0.0
        self._stall: float | None = None

    def sample(self, counts: CpuCounts, used_s: float, now: float) -> Sample | None:
        """Return the share since the last call, smoothed; None at the first one.

        used_s   processor seconds this process has used so far
        """
        before, self._before = self._before, (now, used_s, counts)
        if before is None or now <= before[0]:
            return None
        self._cores = _toward(self._cores, max(used_s - before[1], 0) / (now - before[0]), 1 / 4)
        self._stall = _throttled(before[2], counts)
        limit = counts.cores * self._share
        percent = min(100.0 * self._cores / limit, 100.0) if limit else 0.0
        return Sample(
            value=self._cores, limit=limit, percent=percent, strain=percent, stall=self._stall
        )


def _throttled(before: CpuCounts, now: CpuCounts) -> float | None:
    """Percent of the periods in between in which the group was held up."""
    periods = now.periods - before.periods
    if periods <= 0:
        return None
    return min(max(100.0 * (now.throttled - before.throttled) / periods, 0.0), 100.0)


def _toward(old: float, new: float, share: float) -> float:
    return old + share * (new - old)
