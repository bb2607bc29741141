"""A key that is read and then ignored: what a file says must reach the part that does it."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from edgesync import EdgeNode
from edgesync.model import Strategy
from edgesync.settings import SyncSection
from edgesync.settings import from_table as edge_settings
from edgesync_transport.keys import new_key_pair, write_keys
from edgesync_transport.messages import Lane
from hubd import serve
from hubd.log.lmdb import LmdbLog
from hubd.settings import from_table

# Each differs from its default.
SYNC: dict[str, Any] = {
    "batch_size": 77,
    "batch_timeout": "7ms",
    "ack_timeout": "17s",
    "heartbeat": "2s",
    "heartbeats_missed_max": 4,
    "reconnect_base": "7s",
    "reconnect_factor": 3.5,
    "reconnect_jitter": 0.07,
    "reconnect_cap": "77s",
    "breaker_failures": 7,
    "breaker_open": "177s",
    "interval": "3s",
    "lanes": {"bulk": {"capacity": 777}},
}


def made_of(sync: SyncSection) -> tuple[object, ...]:
    """Return all that the link is made of."""
    return (
        sync.backoff(), sync.breaker(), sync.sender("x"), float(sync.interval), sync.policies(),
    )  # fmt: skip


@pytest.mark.feature("S3")
def test_every_key_of_the_link_changes_what_it_is_made_of() -> None:
    assert set(SYNC) == set(SyncSection.__struct_fields__)
    for key, value in SYNC.items():
        changed = edge_settings({"sync": {key: value}}, file="edge.toml", environment={}).sync
        assert made_of(changed) != made_of(SyncSection()), f"sync.{key} is read and ignored"


@pytest.mark.feature("S3")
async def test_what_the_file_says_of_the_link_reaches_it(tmp_path: Path) -> None:
    write_keys(tmp_path / "edge.keys", new_key_pair())
    hub = {"endpoint": "tcp://127.0.0.1:1", "server_key": new_key_pair().public}
    async with EdgeNode({"hub": hub, "sync": SYNC}, folder=tmp_path) as node:
        driver = node._driver
        assert driver is not None
        sender, backoff = driver.sender.settings, driver._backoff._settings
        breaker = driver.breaker._settings
        assert (backoff.base_s, backoff.factor, backoff.jitter, backoff.cap_s) == (7, 3.5, 0.07, 77)
        assert (breaker.failures_max, breaker.open_s) == (7, 177)
        assert (sender.batch_records_max, sender.linger_s[Lane.BULK]) == (77, 0.007)
        assert (sender.ack_timeout_s, sender.heartbeat_s, sender.heartbeats_missed_max) == (
            17,
            2,
            4,
        )


@pytest.mark.feature("S19", "L2")
def test_a_strategy_in_the_hubs_file_decides_what_met(tmp_path: Path) -> None:
    table = {
        "cells": {"strategy": "edge_wins", "prefix": [{"prefix": "n:", "strategy": "crdt_merge"}]}
    }
    settings = from_table(table, file="hub.toml", environment={})
    with (
        contextlib.closing(LmdbLog(tmp_path / "log")) as hub_log,
        contextlib.closing(serve.open_cells(settings, tmp_path, hub_log)) as cells,
    ):
        assert cells.space.strategies() == [
            (b"n:", Strategy.CRDT_MERGE),
            (b"", Strategy.EDGE_WINS),
        ]


@pytest.mark.feature("S19", "L2")
def test_a_strategy_in_the_edges_file_decides_there(tmp_path: Path) -> None:
    cells = {"strategy": "cloud_wins", "prefix": [{"prefix": "n:", "strategy": "edge_wins"}]}
    with EdgeNode({"cells": cells}, folder=tmp_path) as node:
        assert node.cells.space.strategies() == [
            (b"n:", Strategy.EDGE_WINS),
            (b"", Strategy.CLOUD_WINS),
        ]
