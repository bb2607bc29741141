"""One word for how an edge is, by the thresholds operators know."""

from typing import Any

import msgspec
import pytest

from hubd.api.health import health_of
from tests.hubd.still import an_edge


@pytest.mark.feature("S27")
@pytest.mark.parametrize(
    ("changes", "health"),
    [
        ({}, "good"),
        ({"lag_records": 999, "lag_s": 4.9}, "good"),
        ({"lag_records": 1000}, "warning"),
        ({"lag_records": 5000}, "warning"),
        ({"lag_records": 5001}, "critical"),
        ({"lag_s": 5.0}, "warning"),
        ({"lag_s": 30.1}, "critical"),
        ({"clock_offset_s": -1.0}, "warning"),
        ({"clock_offset_s": None, "lag_s": None}, "good"),
        ({"is_connected": False, "state": "lost"}, "critical"),
        ({"is_connected": False, "state": "stopped"}, "warning"),
        ({"is_connected": False, "state": "disconnected", "known_at_ns": None}, "warning"),
        ({"is_connected": False, "state": "invited", "lag_records": None}, "idle"),
        ({"is_connected": False, "state": "revoked", "lag_records": 9000}, "idle"),
    ],
)
def test_health_follows_queue_latency_clock_and_link(changes: dict[str, Any], health: str) -> None:
    assert health_of(msgspec.structs.replace(an_edge("barn"), **changes)) == health
