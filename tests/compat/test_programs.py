"""Programs as their users run them, against a real edge. `make compat` installs them first."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edgesync.serve.resp.test_server import Edge

pytestmark = [pytest.mark.feature("L9"), pytest.mark.long]

ROOT = Path(__file__).parents[2]
INSTALLED = Path(os.environ.get("EDGESYNC_COMPAT", ROOT / ".cache" / "compat"))
PROGRAMS = Path(__file__).parent / "programs"
PYTHON = {
    "locks": [
        "redis_py_lock", "django", "redis_lock", "limits_fixed", "limits_moving", "limits_sliding",
    ],
    "queues": ["dramatiq", "rq", "celery", "celery_results", "huey", "arq"],
}  # fmt: skip
NODE = ["ioredis", "bull", "bullmq", "bee", "redlock", "flexible", "ratelimit"]
# What they need that an edge does not have; docs/redis-commands.md says so.
MISSING = {"rq": "XADD", "bullmq": "XADD"}
TIME_S = 60


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    made = Edge(tmp_path_factory.mktemp("edge"), flush="everywhere")
    yield made
    made.kill()


def run(edge: Edge, command: list[str], name: str, **environment: str) -> None:
    assert INSTALLED.exists(), f"nothing is installed in {INSTALLED}; `make compat` does it"
    with edge.client() as client:
        client.flushall()
    done = subprocess.run(
        [*command, str(edge.port), name],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=TIME_S,
        check=False,
    )  # fmt: skip
    said = done.stdout[-1500:] + done.stderr[-3000:]
    if name in MISSING:
        assert done.returncode != 0, f"{name} runs now: say so in docs/redis-commands.md"
        assert MISSING[name].lower() in said.lower()
        return
    assert done.returncode == 0, said


@pytest.mark.parametrize("name", [name for names in PYTHON.values() for name in names])
def test_a_python_program_runs(edge: Edge, name: str) -> None:
    script = next(script for script, names in PYTHON.items() if name in names)
    run(edge, [str(INSTALLED / "venv/bin/python"), str(PROGRAMS / f"{script}.py")], name)


@pytest.mark.parametrize("name", NODE)
def test_a_program_of_node_runs(edge: Edge, name: str) -> None:
    modules = str(INSTALLED / "node" / "node_modules")
    run(edge, ["node", str(PROGRAMS / "programs.cjs")], name, NODE_PATH=modules)
