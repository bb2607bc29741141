"""A fleet of simulated edges at a hub in a process of its own, over real sockets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.feature("S3", "C14")
def test_news_wakes_those_it_concerns_and_all_come_back_to_a_hub_that_was_killed() -> None:
    command = [sys.executable, "-m", "bench.fleet", "--edges", "200", "--seconds", "10"]
    done = subprocess.run(
        [*command, "idle", "news", "killed"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = {one["question"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert found["connect"]["failures"] == {}
    assert (found["news"]["reached"], found["news"]["others"]) == (3.0, 0)
    assert found["killed"]["failures"]["LOST"] == 200
    assert found["killed"]["back_s"] > 0
