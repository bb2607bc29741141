"""Delays between attempts: exponential, with jitter, capped.  [sans-IO]"""

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from random import Random


class BackoffSettings(msgspec.Struct, frozen=True, kw_only=True):
    """base_s × factor^n, at most cap_s, each spread by ± jitter."""

    base_s: float = 3.0
    factor: float = 2.0
    jitter: float = 0.2
    cap_s: float = 60.0


class Backoff:
    """Attempt after attempt; `reset` after a success."""

    def __init__(self, settings: BackoffSettings, random: "Random") -> None:
        self._settings = settings
        self._random = random
        self._attempts = 0

    def next_s(self) -> float:
        settings = self._settings
        # The exponent is bounded so that a week of failures does not overflow a float.
        plain_s = settings.base_s * settings.factor ** min(self._attempts, 64)
        self._attempts += 1
        spread = self._random.uniform(1 - settings.jitter, 1 + settings.jitter)
        return min(plain_s, settings.cap_s) * spread

    def reset(self) -> None:
        self._attempts = 0
