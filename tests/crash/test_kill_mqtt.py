"""The edge is killed while devices publish: what was acknowledged is there afterwards (F1, A3)."""

import json
import os
import threading
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from edgesync import EdgeNode
from edgesync._native.window import Window
from edgesync.rules.state import Stored
from tests.edgesync.rules.chains import exported
from tests.edgesync.serve.mqtt.daemon import PATIENCE_S, Daemon, open_daemon

KILLS = int(os.environ.get("EDGESYNC_KILLS", "5"))
UNDER_WAY = 100


class Publisher:
    """Publishes a key after the other; `count` is how many PUBACKs or PUBCOMPs came."""

    def __init__(self, daemon: Daemon, name: str, qos: int) -> None:
        self._name = name
        self._qos = qos
        self._keys: dict[int, str] = {}
        self._answered: list[int] = []
        self._room = threading.Semaphore(UNDER_WAY)
        self._is_over = threading.Event()
        self._client = daemon.client(
            "GATE_TOKEN", client_id=name, reconnect_on_failure=False, inflight_max=UNDER_WAY
        )
        self._client.on_publish = self._on_publish
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        return len(self._answered)

    def _run(self) -> None:
        number = 0
        while not self._is_over.is_set():
            if self._room.acquire(timeout=0.05):
                number += 1
                key = f"{self._name}.{number}"
                payload = json.dumps({self._name: [{key: number, "n": 1}]})
                sent = self._client.publish("v1/gateway/telemetry", payload, qos=self._qos)
                self._keys[sent.mid] = key

    def _on_publish(self, _client: Any, _data: Any, mid: int, *_: Any) -> None:
        self._answered.append(mid)
        self._room.release()

    def end(self) -> set[str]:
        """Return the keys that were acknowledged."""
        self._is_over.set()
        self._thread.join(PATIENCE_S)
        self._client.disconnect()
        self._client.loop_stop()
        return {self._keys[mid] for mid in self._answered}


# Saved and pushed, and counted in a window that does not close.
COUNTING = exported(
    [
        ("filter.TbMsgTypeSwitchNode", "Switch", {}),
        ("telemetry.TbMsgTimeseriesNode", "Save", {}),
        ("edge.TbMsgPushToCloudNode", "Push", {}),
        ("edgesync.WindowNode", "Count",
         {"intervalSeconds": 30 * 86_400, "functions": ["COUNT"], "keys": ["n"]}),
    ],
    [(0, 1, "Post telemetry"), (1, 2, "Success"), (0, 3, "Post telemetry")],
)  # fmt: skip


def counted(node: EdgeNode) -> Counter[str]:
    """Return how many messages of each entity the window has counted, as it is on disk."""
    found: Counter[str] = Counter()
    for _, raw in node.store.store.scan("rules", b"", limit=10_000):
        one = msgspec.msgpack.decode(raw, type=Stored)
        if isinstance(one.value, dict) and "windows" in one.value:
            found[one.value["entity"][1]] += Window.decode(one.value["windows"]["n"]).count
    return found


def until_acknowledged(daemon: Daemon, clients: list[Publisher], count: int) -> None:
    daemon.terminal.until(lambda: sum(one.count for one in clients) >= count)


@pytest.mark.feature("F1", "S29")
def test_every_acknowledged_reading_survives_sigkill(tmp_path: Path) -> None:
    random = Random(7)
    acknowledged: set[str] = set()
    with open_daemon(tmp_path, "[series]\nmax = 1_000_000\n") as daemon:
        for kill in range(KILLS):
            if kill:
                daemon.start()
            clients = [
                Publisher(daemon, f"c{kill}-{number}", qos) for number, qos in enumerate((1, 1, 2))
            ]
            wanted = random.randrange(10, 600)
            until_acknowledged(daemon, clients, wanted)
            daemon.kill()
            for one in clients:
                acknowledged |= one.end()
            with EdgeNode.stored(daemon.terminal.edge_config) as node:
                stored = {one.key for one in node.latest()}
            assert acknowledged - stored == set()
    assert len(acknowledged) >= 10 * KILLS


@pytest.mark.feature("S18")
def test_what_rules_remember_is_exactly_what_they_have_stored(tmp_path: Path) -> None:
    """Effects and memory of a message are one transaction: a kill leaves both or neither (I2)."""
    random, acknowledged = Random(11), set[str]()
    (tmp_path / "chain.json").write_bytes(COUNTING)
    rules = f'[rules]\nchains = "{tmp_path / "chain.json"}"\n'
    with open_daemon(tmp_path, f"[series]\nmax = 1_000_000\n{rules}") as daemon:
        for kill in range(KILLS):
            if kill:
                daemon.start()
            clients = [Publisher(daemon, f"c{kill}-{number}", 1) for number in range(3)]
            until_acknowledged(daemon, clients, random.randrange(10, 400))
            daemon.kill()
            for one in clients:
                acknowledged |= one.end()
            with EdgeNode.stored(daemon.terminal.edge_config) as node:
                stored = {one.key: one.entity for one in node.latest() if one.key != "n"}
                assert acknowledged - stored.keys() == set()
                assert counted(node) == Counter(stored.values())
    assert len(acknowledged) >= 10 * KILLS
