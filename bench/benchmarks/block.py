"""What does a point cost in an ESB1 block, in bytes and in nanoseconds?

Decides whether history is kept packed on the hub and how many points a block holds: at most 8 ns a
value to encode and 3 to decode, 1.5 bytes a point of a decimal sensor at a regular rate.
"""

from __future__ import annotations

import array
import math
import random
import timeit

from edgesync._native import block

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
# A block by default, the largest, and one that was sealed early.
POINTS = [128, 1024, 8192]
KINDS = ["decimals", "jitter", "doubles", "levels", "counter"]
F64, I64 = 0, 1


def times_of(kind: str, n: int) -> array.array[int]:
    rng = random.Random(1)
    late = (rng.randint(-5, 5) * 10**6 if kind == "jitter" else 0 for _ in range(n))
    return array.array("q", [START + i * SECOND + ms for i, ms in enumerate(late)])


def values_of(kind: str, n: int) -> tuple[int, array.array[float] | array.array[int]]:
    rng = random.Random(2)
    if kind == "counter":
        return I64, array.array("q", [i * 17 + rng.randint(0, 9) for i in range(n)])
    if kind == "doubles":
        return F64, array.array("d", [math.sin(i / 100) for i in range(n)])
    if kind == "levels":
        return F64, array.array("d", [rng.randint(0, 200) * 3.3 / 4096 for _ in range(n)])
    at, out = 20.0, array.array("d")
    for _ in range(n):
        at += rng.gauss(0, 0.05)
        out.append(round(at, 2))
    return F64, out


class Block:
    params = (KINDS, POINTS)
    param_names = ("values", "points")
    unit = "ns/point"

    def setup(self, kind: str, points: int) -> None:
        self.times = times_of(kind, points)
        self.vtype, self.values = values_of(kind, points)
        self.packed = block.encode(7, self.vtype, self.times, self.values)
        self.repeats = max(20, 200_000 // points)

    def cost(self, work: timeit.Timer, points: int) -> float:
        """Nanoseconds a point, best of five: what the machine did besides does not count."""
        return min(work.repeat(5, self.repeats)) / self.repeats / points * 1e9

    def track_encode(self, kind: str, points: int) -> float:
        work = timeit.Timer(
            lambda: block.encode(7, self.vtype, self.times, self.values, stats=False)
        )
        return self.cost(work, points)

    def track_encode_with_stats(self, kind: str, points: int) -> float:
        work = timeit.Timer(lambda: block.encode(7, self.vtype, self.times, self.values))
        return self.cost(work, points)

    def track_decode(self, kind: str, points: int) -> float:
        return self.cost(timeit.Timer(lambda: block.decode(self.packed)), points)

    def track_rollup_to_minutes(self, kind: str, points: int) -> float:
        work = timeit.Timer(lambda: block.rollup(self.times, self.values, 60 * SECOND))
        return self.cost(work, points)

    def track_bytes(self, kind: str, points: int) -> float:
        """With header and stats."""
        return len(self.packed) / points

    for _track in (track_encode, track_encode_with_stats, track_decode, track_rollup_to_minutes):
        _track.unit = "ns/point"  # type: ignore[attr-defined]
    track_bytes.unit = "bytes/point"  # type: ignore[attr-defined]


if __name__ == "__main__":
    for name in KINDS:
        for count in POINTS:
            one = Block()
            one.setup(name, count)
            print(
                f"{name:9} {count:5} {one.track_bytes(name, count):5.2f} B/point, ns/point: "
                f"encode {one.track_encode(name, count):.1f}, with stats "
                f"{one.track_encode_with_stats(name, count):.1f}, decode "
                f"{one.track_decode(name, count):.1f}, rollup "
                f"{one.track_rollup_to_minutes(name, count):.1f}"
            )
