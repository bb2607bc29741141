"""How soon is there a new row at the hub, once the hub is there again?

Decides whether an edge may wait before it tries again. A real hub and a real edge, one poll of 50 a
tenth of a second; the hub is killed and started again after a while, or the line between the two is
cut. Counted from the moment the hub's port (or the line) accepts connections until the HTTP API
shows a reading that was taken after the loss. `python -m bench.benchmarks.returning` prints it.
"""

import json
import socket
import statistics
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable

import trio

from bench.benchmarks.rig import Rig, open_rig
from edgesync import EdgeNode, Reading
from edgesync.demo.cable import open_cable

RUNS = 5
AWAY_S = 5.0
POLL_S = 0.1
LOOK_S = 0.002


# Loses the hub, brings it back after a while, and says when it was there.
Lose = Callable[[], Awaitable[float]]


async def measure(rig: Rig, edge: EdgeNode, lose: Lose) -> float:
    """Return the seconds from the hub's (or the line's) return to the first new row."""
    polls = 0

    async def produce() -> None:
        nonlocal polls
        while True:
            at = time.time_ns()
            await edge.ingest([Reading("m", f"p{n}", float(polls), at) for n in range(50)])
            polls += 1
            await trio.sleep(POLL_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        await until_newest(rig, 5)
        back_at = await lose()
        await until_newest(rig, polls - 1)
        took_s = time.monotonic() - back_at
        nursery.cancel_scope.cancel()
    return took_s


async def until_newest(rig: Rig, poll: int) -> None:
    while await newest(rig) < poll:  # noqa: ASYNC110 - as a user would
        await trio.sleep(LOOK_S)


async def newest(rig: Rig) -> float:
    return await trio.to_thread.run_sync(_newest, rig)


def _newest(rig: Rig) -> float:
    try:
        with urllib.request.urlopen(f"{rig.url}/api/v1/edges/edge/latest", timeout=1) as answer:
            latest = json.load(answer)["latest"]
    except OSError:
        return -1.0
    return float(latest.get("m", {}).get("p0", {}).get("value", -1.0))


async def after_kill(away_s: float) -> float:
    with open_rig() as rig:
        async with EdgeNode(rig.config) as edge:

            async def lose() -> float:
                rig.hub.kill()
                rig.hub.wait()
                await trio.sleep(away_s)
                rig.start_hub()
                return await trio.to_thread.run_sync(_accepted_at, rig.link_port)

            return await measure(rig, edge, lose)


async def after_cut(away_s: float) -> float:
    with open_rig() as rig:
        async with open_cable(("127.0.0.1", rig.link_port)) as cable:
            rig.plug_into(cable.address)
            async with EdgeNode(rig.config) as edge:

                async def lose() -> float:
                    cable.cut()
                    await trio.sleep(away_s)
                    cable.plug()
                    return time.monotonic()

                return await measure(rig, edge, lose)


def _accepted_at(port: int) -> float:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(LOOK_S)
        else:
            return time.monotonic()


class Return:
    """asv: seconds to the first new row."""

    timeout = 300
    number = repeat = 1
    params = (("kill", "cut"),)
    param_names = ("loss",)

    def track_seconds(self, loss: str) -> float:
        return trio.run(after_kill if loss == "kill" else after_cut, AWAY_S)

    track_seconds.unit = "s"  # type: ignore[attr-defined]


def main() -> None:
    away_s = float(sys.argv[1]) if len(sys.argv) > 1 else AWAY_S
    for loss in (after_kill, after_cut):
        taken = [trio.run(loss, away_s) for _ in range(RUNS)]
        print(json.dumps({
            "loss": loss.__name__, "away_s": away_s, "median_s": round(statistics.median(taken), 3),
            "all_s": [round(one, 3) for one in taken],
        }))  # fmt: skip


if __name__ == "__main__":
    main()
