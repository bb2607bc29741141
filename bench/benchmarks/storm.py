"""How many keys a second does a hub hear when edges come back at once, and what does it hold?"""

import tempfile
from pathlib import Path

from bench.storm import storm

EDGES, CELLS = 20, 500


class Storm:
    """A small one; `python -m bench.storm` runs 200 edges with 1,000 keys each."""

    timeout = 300.0
    number = 1

    def setup_cache(self) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return storm(EDGES, CELLS, Path(folder))

    def track_cells_a_second(self, found: dict[str, float]) -> float:
        return found["cells_per_s"]

    def track_hub_kb_an_edge(self, found: dict[str, float]) -> float:
        return found["hub_kb_per_edge"]
