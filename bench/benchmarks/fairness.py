"""How late are the newest values of quiet edges while another floods the hub?"""

import tempfile
from pathlib import Path
from typing import Any

from bench.fairness import FLOODS, LOUD, fairness

EDGES = 20


class Fairness:
    timeout = 600.0
    number = 1
    params = FLOODS
    param_names = ("flood",)

    def setup_cache(self) -> dict[str, Any]:
        found = {}
        for flood in FLOODS:
            with tempfile.TemporaryDirectory() as folder:
                loud = LOUD if flood == "tenant" else 1
                found[flood] = fairness(flood, EDGES, loud, Path(folder))
        return found

    def track_late_max_ms(self, found: dict[str, Any], flood: str) -> float:
        return float(found[flood]["flood_late_max_ms"])

    def track_memory_mb(self, found: dict[str, Any], flood: str) -> float:
        return float(found[flood]["memory_most_mb"] - found[flood]["memory_before_mb"])
