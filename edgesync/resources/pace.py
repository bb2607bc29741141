"""How often to talk to the hub: as often as the network bears it and the battery allows.

A pure function of what was measured, so that whoever syncs on a timer asks before each pause. The
lanes of readings need no such pause: their batches and windows follow the acks.
"""

import math
from typing import Final

from edgesync.resources.levels import Level
from edgesync.resources.meters import SLOW_RTTS, NetworkQuality

FLOOR_S: Final = 1.0
CAP_S: Final = 600.0
GOOD_ROUNDS: Final = 3
SLOWER: Final = 1.5


def next_interval_s(
    interval_s: float, quality: NetworkQuality, *, floor_s: float = FLOOR_S, cap_s: float = CAP_S
) -> float:
    """Return the pause after a round, by the network alone.

    interval_s   the pause before it

    Three good rounds in a row bring it down to the floor; a round that was lost, or took four times
    as long as the best one, makes it longer by half.
    """
    if quality.good_rounds >= GOOD_ROUNDS:
        return floor_s
    if quality.was_lost or quality.rtt_ratio > SLOW_RTTS:
        return min(interval_s * SLOWER, cap_s)
    return min(max(interval_s, floor_s), cap_s)


def paced(interval_s: float, battery: Level, *, cap_s: float = CAP_S) -> float:
    """Return what a battery at that level makes of the network's pause.

    Below 50 % of charge half as often, below 20 % an eighth; below 10 % only when somebody asks,
    which is a pause without end.
    """
    match battery:
        case Level.NORMAL:
            return min(interval_s, cap_s)
        case Level.WARNING:
            return min(interval_s * 2, cap_s)
        case Level.HIGH:
            return min(interval_s * 8, cap_s)
        case Level.CRITICAL:
            return math.inf
