"""How late are acks to a fleet, what does it cost the hub, and how soon does news arrive?"""

import tempfile
from pathlib import Path
from typing import Any

from bench.fleet import fleet

EDGES, SECONDS = 100, 60.0


class Fleet:
    """A small one; `python -m bench.fleet` runs 1,000 edges."""

    timeout = 300.0
    number = 1

    def setup_cache(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            return fleet(EDGES, SECONDS, Path(folder))

    def track_ack_p99_ms(self, found: dict[str, Any]) -> float:
        return float(found["batches"]["ack_p99_ms"])

    def track_cpu_ms_a_batch(self, found: dict[str, Any]) -> float:
        return float(found["batches"]["cpu_ms_a_batch"])

    def track_kib_an_edge(self, found: dict[str, Any]) -> float:
        return float(found["idle"]["kib_an_edge"])

    def track_news_max_ms(self, found: dict[str, Any]) -> float:
        return float(found["news"]["news_max_ms"])
