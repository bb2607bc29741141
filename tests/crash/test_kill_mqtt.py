"""The edge is killed while devices publish: what was acknowledged is there afterwards (F1, A3)."""

import json
import os
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edgesync import EdgeNode
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
                payload = json.dumps({self._name: [{key: number}]})
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
