"""Lines of `edgesync status`, from what the daemon answers."""

from typing import Any

import pytest

from edgesync.cli.ask import _shown_keys

KEYS = {
    "state": "idle", "keys": 812, "pending": 0, "share": 1.0, "received": 900, "checks": 1,
    "refetches": 0, "synced_ns": 1, "problem": "",
}  # fmt: skip


@pytest.mark.feature("S21")
@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, "812, idle"),
        ({"state": "full_sync", "share": 0.434},
         "812, full sync: 43% of what is new at the hub is here"),
        ({"state": "syncing", "share": None, "pending": 3},
         "812, syncing; 3 operations are not at the hub yet"),
        ({"state": "offline", "share": 0.5, "pending": 3},
         "812, offline; 3 operations are not at the hub yet"),
        ({"state": "degraded", "problem": "the disk is full"}, "812, degraded (the disk is full)"),
    ],
)  # fmt: skip
def test_how_far_keys_are_is_one_line(changed: dict[str, Any], line: str) -> None:
    assert _shown_keys(KEYS | changed) == line
