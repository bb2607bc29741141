"""The time that an edge's keys go by, over restarts and steps of the machine's clock.

A gateway may come up without a battery, or with a clock that somebody set wrong. Deadlines are
times, but they are meant as "seconds from then": the time of keys goes on where the store has it,
as far as that can be known. A store that was only closed goes on by the monotonic clock, which no
step reaches; after a boot there is the wall clock alone.
"""

import contextlib
from pathlib import Path
from typing import Final

import msgspec

# So much is a clock that was set or never was; less is what NTP slews.
WRONG_CLOCK_MS: Final = 5_000
STEP_MS: Final = 1_000
# After a boot, a shorter time has probably passed, and a longer one was perhaps none.
OFF_MS: Final = 3_600_000
MARK_EVERY_MS: Final = 1_000
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return what changes with each boot of this machine; "" when nobody says."""
    with contextlib.suppress(OSError):
        return BOOT_ID.read_text("ascii").strip()
    return ""


class Move(msgspec.Struct, frozen=True):
    """A shift of what operations were made by, which many take some turns for.

    Deadlines that move to a later time do so before the time of keys, those that move to an earlier
    one after it: in between a key may live longer, and none ends too soon.

    first     operations behind this number
    after     … have been moved up to this one
    last      … and this was the last one made before
    later_ms  by so much
    """

    first: int
    after: int
    last: int
    later_ms: int


class ClockMark(msgspec.Struct, frozen=True):
    """The time of keys at one moment, as it is stored with what was written then.

    boot          in which boot of the machine
    monotonic_ms  since it
    wall_ms       what the machine's clock showed
    behind_ms     how much that was behind the time of keys
    is_known      whether that was the hub's time
    sure          operations up to this number have deadlines by the hub's time
    move          what is under way
    """

    boot: str = ""
    monotonic_ms: int = 0
    wall_ms: int = 0
    behind_ms: int = 0
    is_known: bool = False
    sure: int = 0
    move: Move | None = None

    def resumed(self, boot: str, monotonic_ms: int, wall_ms: int) -> tuple[int, int]:
        """Return how much the machine's clock is behind now, and by how much deadlines move.

        They do when they are not `sure`: the time of keys has jumped, and the seconds that they
        have left stay.
        """
        was_ms = self.wall_ms + self.behind_ms
        passed_ms = monotonic_ms - self.monotonic_ms
        if boot and boot == self.boot and passed_ms >= 0:
            step_ms = wall_ms - self.wall_ms - passed_ms
            if self.is_known or abs(step_ms) < STEP_MS:
                return self.behind_ms - (step_ms if abs(step_ms) >= STEP_MS else 0), 0
            return 0, step_ms - self.behind_ms
        # A clock that is wrong in the same way as before, or right, or one that begins anew.
        now_ms = next((t for t in (wall_ms + self.behind_ms, wall_ms) if t >= was_ms), was_ms)
        jump_ms = now_ms - was_ms
        return now_ms - wall_ms, jump_ms if jump_ms > OFF_MS else 0
