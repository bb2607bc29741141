"""Series whose sums, moments and sketches end in awkward bits, equal on every machine.

Made of integers and exact steps alone: sine, logarithm and powers differ between C libraries. What
comes of them must not differ either: a processor that fuses multiply and add rounds once where
others round twice, and half of these blocks come out otherwise.
"""

import array
import hashlib
import math
import struct
from collections.abc import Iterator
from random import Random

from edgesync._native import block, window

HOUR_NS = 3600 * 10**9
BEGIN_NS = 10**18 // HOUR_NS * HOUR_NS


def values_of(kind: str, count: int, random: Random) -> list[float]:
    if kind == "decimal":
        return [random.randrange(-50_000, 50_000) / 100 for _ in range(count)]
    if kind == "float":
        return [230 + random.randrange(-(1 << 40), 1 << 40) / (1 << 38) for _ in range(count)]
    if kind == "wide":
        return [
            random.choice((-1, 1)) * math.ldexp(random.random(), random.randrange(-40, 40))
            for _ in range(count)
        ]
    return [20 + 5 * ((at % 97) / 97) for at in range(count)]


def all_series() -> Iterator[tuple[str, list[float]]]:
    random = Random(7)
    for kind in ("decimal", "float", "wide", "saw"):
        for number in range(25):
            yield f"{kind}/{number}", values_of(kind, random.randrange(50, 3000), random)


def digests(values: list[float]) -> dict[str, str]:
    """What becomes of a series, each part by itself: which differs says where to look."""
    readings = array.array("d", values)
    times = array.array("q", (BEGIN_NS + at * 10**9 for at in range(len(values))))
    packed = block.encode(1, 0, times, readings)
    found = block.stats(packed)
    assert found is not None
    whole = window.Window()
    whole.add_many(times, readings)
    quantiles = [whole.quantile(q) or 0.0 for q in (0.01, 0.5, 0.99)]
    return {
        "input": short(readings.tobytes()),
        "block": short(packed),
        "moments": struct.pack("<3d", found.sum, found.mean, found.m2).hex(),
        "quantiles": struct.pack("<3d", *quantiles).hex(),
        "buckets": short(repr(sorted(whole.buckets().items())).encode()),
        "window": short(whole.encode()),
    }


def short(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:12]


def all_digests() -> dict[str, dict[str, str]]:
    return {name: digests(values) for name, values in all_series()}
