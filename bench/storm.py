"""Many edges come back at once, each with keys the hub has not heard of.

    python -m bench.storm --edges 200 --cells 1000

One hub process, the edges in two more, all real: stores, link, CURVE. Each edge has a part of its
own (prefix `site/N/`) and counters that all of them add to; it asks for nothing else. Prints, from
the moment the hub opens its door until every edge has nothing pending and shows the right totals:
seconds, cells a second, and the hub's memory per edge.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import psutil
import trio

from edgesync import EdgeNode
from edgesync.demo.site import free_ports
from edgesync_transport.keys import KeyPair, new_key_pair, write_keys
from edgesync_transport.receiver import ReceiverSettings
from edgesync_transport.router import open_hearing
from edgesync_transport.zap import KeyTable
from hubd.cells import Answers, HubCells
from hubd.link.sessions import HubLink
from hubd.log.lmdb import LmdbLog
from hubd.presence import Presence

SHARED = 10
PROCESSES = 2
LIMIT_S = 570.0
LOOK_S = 0.25


async def run_hub(folder: Path) -> None:
    """Serve until standard input ends; says `ready`, then the memory it has then."""
    plan = json.loads((folder / "plan.json").read_text())
    table = KeyTable(plan["keys"])
    pair = KeyPair(public=plan["public"], secret=plan["secret"])
    hub_log = LmdbLog(folder / "hub" / "log")
    cells = HubCells(folder / "hub" / "cells", hub_log.generation, hub_log.head, random=Random(1))
    answers = Answers(cells, hub_log)
    async with open_hearing([plan["address"]], server_keys=pair, edges=table) as hearing:
        link = HubLink(hearing, hub_log, Presence(hub_log), ReceiverSettings(), answers=answers)
        async with trio.open_nursery() as nursery:
            await nursery.start(answers.run)
            nursery.start_soon(link.run)
            print("ready", flush=True)
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            nursery.cancel_scope.cancel()
    cells.close()
    hub_log.close()


async def run_edges(folder: Path, first: int, count: int, cells: int) -> None:
    """Write to every edge's keys, say `ready`; then wait until each has heard of everything."""
    plan = json.loads((folder / "plan.json").read_text())
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        prefix = f"site/{number}/"
        rules = [
            {"prefix": "", "direction": "up"},
            {"prefix": prefix, "direction": "both"},
            {"prefix": "all/", "direction": "both"},
        ]
        settings = {
            "edge": {"name": f"edge{number}"},
            "hub": {"endpoint": plan["address"], "server_key": plan["public"]},
            "sync": {"reconnect_base": "500ms", "reconnect_cap": "5s", "breaker_failures": 10_000},
            "store": {"limit": "64mb"},
            "cells": {"prefix": rules},
        }
        async with EdgeNode(settings, folder=folder / f"edge{number}") as node:
            for n in range(cells - SHARED):
                node.cells.ask("SET", [f"{prefix}{n}", f"value {n}"])
            for n in range(SHARED):
                node.cells.ask("INCRBY", [f"all/{n}", 1])
            await node.cells.wait_durable()
            assert node.cells.space.pending == cells
            ready.append(number)
            if len(ready) == count:
                all_ready.set()
            total = b"%d" % plan["edges"]
            for _ in range(int(LIMIT_S / LOOK_S)):
                shown = {node.cells.ask("GET", [f"all/{n}"]) for n in range(SHARED)}
                if node.cells.space.pending == 0 and shown == {total}:
                    break
                await trio.sleep(LOOK_S)
            else:
                raise TimeoutError(f"edge{number} has not heard of everything")
            done += 1
            if done == count:
                print("done", flush=True)
            await trio.sleep_forever()

    ready: list[int] = []
    all_ready = trio.Event()
    async with trio.open_nursery() as nursery:
        for number in range(first, first + count):
            nursery.start_soon(one, number)
        await all_ready.wait()
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def storm(edges: int, cells: int, folder: Path) -> dict[str, float]:
    """Run it; returns what was measured."""
    hub, (port,) = new_key_pair(), free_ports(1)
    keys = {}
    for number in range(edges):
        pair = new_key_pair()
        keys[pair.public] = f"edge{number}"
        (folder / f"edge{number}").mkdir()
        write_keys(folder / f"edge{number}" / "edge.keys", pair)
    plan = {
        "address": f"tcp://127.0.0.1:{port}", "public": hub.public, "secret": hub.secret,
        "keys": keys, "edges": edges,
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    share = edges // PROCESSES
    sites = [
        _start("edges", folder, str(nth * share), str(share), str(cells))
        for nth in range(PROCESSES)
    ]
    for site in sites:
        _expect(site, "ready")
    begun = time.monotonic()
    served = _start("hub", folder)
    _expect(served, "ready")
    memory = psutil.Process(served.pid)
    idle = memory.memory_full_info().uss
    for site in sites:
        _expect(site, "done")
    took_s = time.monotonic() - begun
    time.sleep(2)
    busy = memory.memory_full_info().uss
    for process in (*sites, served):
        process.communicate(timeout=60)
    return {
        "edges": edges,
        "cells": cells,
        "seconds": round(took_s, 1),
        "cells_per_s": round(edges * cells / took_s),
        "hub_idle_mb": round(idle / 1e6, 1),
        "hub_kb_per_edge": round((busy - idle) / edges / 1e3, 1),
    }


def _start(role: str, folder: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.storm", role, str(folder), *more]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _expect(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != word:
        raise RuntimeError(f"said {line!r} where {word!r} was due; ended with {process.poll()}")


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ("hub", "edges"):
        folder = Path(sys.argv[2])
        if sys.argv[1] == "hub":
            trio.run(run_hub, folder)
        else:
            first, count, cells = map(int, sys.argv[3:6])
            trio.run(run_edges, folder, first, count, cells)
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edges", type=int, default=200)
    parser.add_argument("--cells", type=int, default=1000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(storm(wanted.edges, wanted.cells, Path(place))))


if __name__ == "__main__":
    main()
