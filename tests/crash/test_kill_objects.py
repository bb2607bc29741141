"""A large object on its way between real processes: cut, killed at both ends, and measured.

Both programs are those that a user runs; what is between them is a cable that can be pulled.
"""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync.demo.site import EDGE, Site, open_site

pytestmark = pytest.mark.feature("S22")

PATIENCE_S = 300
MIB = 1 << 20
EXTRA_BYTES_MAX = 8 * MIB


def write(path: Path, size: int) -> str:
    """Write random bytes, a piece at a time; returns their SHA-256."""
    digest, chance = hashlib.sha256(), random.Random(size)
    with path.open("wb") as out:
        for _ in range(size // MIB):
            piece = chance.randbytes(MIB)
            digest.update(piece)
            out.write(piece)
    return digest.hexdigest()


async def assign(site: Site, path: Path) -> None:
    await site.hubd("object", "put", str(path), "--name", "model")
    await site.hubd("object", "assign", "model", EDGE)


def at_edge(site: Site) -> dict[str, Any]:
    """Return how the object stands at the edge; nothing while that does not answer."""
    status = site.edge_status()
    found = [] if status is None else status["objects"]["objects"]
    return found[0] if found else {"standing": "", "have": 0}


async def until(is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    with trio.fail_after(patience_s):
        while not await trio.to_thread.run_sync(is_so):  # noqa: ASYNC110
            await trio.sleep(0.02)


def have(site: Site) -> int:
    """Return how many bytes are on the edge's disk: it may not be there to be asked."""
    folder = site.edge_folder / "data" / "objects"
    sizes = []
    for path in folder.glob("*") if folder.exists() else ():
        try:
            sizes.append(path.stat().st_size if path.suffix in ("", ".part") else 0)
        except FileNotFoundError:
            continue
    return max(sizes, default=0)


async def until_have(site: Site, nbytes: int) -> None:
    await until(lambda: have(site) >= nbytes)


async def held(site: Site, sha256: str) -> None:
    """Wait until the edge holds the object, and the hub has been told."""
    await until(lambda: at_edge(site)["standing"] == "held")
    path = site.edge_folder / "data" / "objects" / sha256

    def is_told() -> bool:
        found = site.get(f"/api/v1/edges/{EDGE}/objects") or {"objects": []}
        return [one["standing"] for one in found["objects"]] == ["held"]

    await until(is_told)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert sorted(one.name for one in path.parent.iterdir()) == sorted([sha256, "index.json"])


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
async def test_8_mb_arrive_over_cuts_and_kills_of_both_ends(tmp_path: Path) -> None:
    chance = random.Random(8)
    size = 8 * MIB
    sha256 = write(tmp_path / "model", size)
    async with open_site(tmp_path, seed=1) as site:
        site.cable.cut()
        await assign(site, tmp_path / "model")
        for number, what in enumerate(["cut", "edge", "cut", "hub", "edge", "cut", "hub"]):
            site.cable.plug()
            reached = have(site)
            await until_have(site, min(size, reached + size // 10))
            if what == "cut":
                site.cable.cut()
            else:
                await site.kill(what)
                start = site.start_edge if what == "edge" else site.start_hub
                await start(until_ready=number % 2 == 0)
            await trio.sleep(chance.uniform(0.0, 0.2))
            assert have(site) >= reached
        site.cable.plug()
        await held(site, sha256)


def peak_bytes(pid: int) -> int:
    """Return the most memory a process has had resident since its peak was reset."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5)


@pytest.mark.long
@pytest.mark.timeout(3 * PATIENCE_S)
async def test_64_mb_pass_with_8_mb_of_memory_at_either_end(tmp_path: Path) -> None:
    sha256 = write(tmp_path / "small", MIB)
    async with open_site(tmp_path, seed=1, every="10s") as site:
        # What the first object takes is taken once: threads, modules, buffers of the link.
        await assign(site, tmp_path / "small")
        await held(site, sha256)
        sha256 = write(tmp_path / "model", 64 * MIB)
        pids = {name: process.pid for name, process in site.processes.items()}
        for pid in pids.values():
            reset_peak(pid)
        before = {name: peak_bytes(pid) for name, pid in pids.items()}
        await site.hubd("object", "put", str(tmp_path / "model"), "--name", "model")
        await until(lambda: at_edge(site).get("sha256") == sha256)
        began = trio.current_time()
        await until(lambda: at_edge(site)["standing"] == "held")
        took_s = trio.current_time() - began
        extra = {name: peak_bytes(pid) - before[name] for name, pid in pids.items()}
        await held(site, sha256)
        print(json.dumps({"took_s": round(took_s, 1), "before": before, "extra": extra}))
        for name, nbytes in extra.items():
            assert nbytes <= EXTRA_BYTES_MAX, (name, extra)
