"""The alerts that come with the hub: Prometheus takes them, and they are of metrics there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio
from starlette.testclient import TestClient

from edgesync import EdgeNode, Reading
from edgesync.serve.http import metrics
from edgesync_transport.keys import new_key_pair, write_keys
from tests.terminal import Terminal

pytestmark = pytest.mark.feature("S27")

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "hubd" / "alerts.yml"
TESTS = Path(__file__).with_name("alerts_test.yml")


def promtool(*arguments: str) -> str:
    ours = ROOT / ".cache" / "promtool"
    found = str(ours) if ours.exists() else shutil.which("promtool")
    assert found, "no promtool here: `make .cache/promtool` fetches it (Debian package prometheus)"
    done = subprocess.run([found, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_them() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


@pytest.mark.slow
def test_they_fire_when_they_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(TESTS))


def families(text: str) -> set[str]:
    """The names of samples that these pages have, or would have of something."""
    found = {line.partition("{")[0].split()[0] for line in text.splitlines() if line[:1] != "#"}
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.M):
        found |= {name, f"{name}_total"} if kind == "counter" else {name}
        if kind == "histogram":
            found.add(f"{name}_bucket")
    return found


async def edge_page(folder: Path) -> str:
    keys = new_key_pair()
    write_keys(folder / "edge.keys", keys)
    settings = {"hub": {"endpoint": "tcp://127.0.0.1:9", "server_key": keys.public}}
    async with EdgeNode(settings, folder=folder) as node:
        await node.ingest([Reading("m", "P", 1.0, 1)])
        return metrics(node.status()).decode()


def test_each_metric_is_one_that_hub_or_edge_has(client: TestClient, tmp_path: Path) -> None:
    there = families(client.get("/metrics").text) | families(trio.run(edge_page, tmp_path))
    named = set(re.findall(r"edgesync_[a-z_]+", re.sub(r"summary: .*|#.*", "", ALERTS.read_text())))
    assert len(named) > 15
    assert named - there == set()


def test_hubd_prints_them(tmp_path: Path) -> None:
    assert Terminal(tmp_path).out("hubd", "alerts") == ALERTS.read_text()
