"""What does a reading cost that is summed up in a window?

Decides whether every reading of a site can be aggregated as it comes: 500,000 a second and core.
"""

import array
import random
import timeit
from typing import ClassVar

from edgesync._native.window import Window


class Update:
    params: ClassVar = [60, 1000, 100_000]
    param_names: ClassVar = ["readings"]
    unit = "ns/reading"

    def setup(self, readings: int) -> None:
        chance = random.Random(1)
        self.times = array.array("q", range(readings))
        self.values = array.array("d", [round(chance.gauss(20, 5), 1) for _ in range(readings)])

    def track_ns_per_reading(self, readings: int) -> float:
        rounds = max(1, 200_000 // readings)
        runs = timeit.repeat(
            lambda: Window().add_many(self.times, self.values), number=rounds, repeat=5
        )
        return sorted(runs)[2] / rounds / readings * 1e9


if __name__ == "__main__":
    for count in Update.params:
        update = Update()
        update.setup(count)
        print(f"{count:7} readings: {update.track_ns_per_reading(count):6.1f} ns a reading")
