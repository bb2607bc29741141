"""What does a write of the hub's own client cost?

Decides whether keys may be a function of the log: a write goes into it before it is answered, so it
should cost about a commit of the log, by itself, and far less where many come together. The limit
is the same entry, appended to a log that nobody reads; both in one run.
"""

import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from random import Random

import trio

from edgesync_transport.messages import Codec, Lane, LaneFloor
from hubd.cells import Answers, HubCells
from hubd.log.base import Append
from hubd.log.lmdb import LmdbLog

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 5
WRITES = 200
CLIENTS = (1, 50)
NONE = LaneFloor(floor=0, chain=0, safe=0)


async def append_s(hub_log: LmdbLog, count: int) -> float:
    """Return the seconds that an append of an entry of the same size takes, one by one."""
    session = await hub_log.open_session("hub:none", bytes(16), [NONE] * len(Lane))
    floor = session.floors[Lane.NORMAL].floor
    begun = time.perf_counter()
    for number in range(floor + 1, floor + count + 1):
        await hub_log.append([
            Append(
                edge="hub:none", epoch=session.epoch, incarnation=bytes(16), lane=Lane.NORMAL,
                first=number, last=number, prev_chain=0, last_chain=0, codec=Codec.PROPOSAL,
                payload=bytes(40),
            )
        ])  # fmt: skip
    return (time.perf_counter() - begun) / count


async def write_s(answers: Answers, count: int, together: int) -> float:
    """Return the seconds that a SET takes, where so many clients write at a time."""

    async def client(number: int) -> None:
        for nth in range(count // together):
            key = b"key:%d" % (nth % 50)
            await answers.run_commands([[b"SET", key, b"%d" % number]])

    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(together):
            nursery.start_soon(client, number)
    return (time.perf_counter() - begun) / count


async def compare(together: int) -> tuple[float, float]:
    """Return medians of the seconds of an append alone, and of a write."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        folder = Path(name)
        alone, hub_log = LmdbLog(folder / "alone"), LmdbLog(folder / "log")
        with (
            closing(alone), closing(hub_log),
            closing(HubCells(folder / "cells", hub_log.generation, 0, random=Random(1))) as cells,
        ):  # fmt: skip
            answers = Answers(cells, hub_log)
            found: list[tuple[float, float]] = []
            async with trio.open_nursery() as nursery:
                await nursery.start(answers.run)
                for _ in range(ROUNDS):
                    appended = await append_s(alone, WRITES)
                    found.append((appended, await write_s(answers, WRITES, together)))
                nursery.cancel_scope.cancel()
    return (
        statistics.median(appended for appended, _ in found),
        statistics.median(written for _, written in found),
    )


class HubKeys:
    """A write at the hub beside an append to its log, by clients that write at a time."""

    params = CLIENTS
    param_names = ("clients",)
    timeout = 300

    def setup(self, clients: int) -> None:
        self.append_s, self.write_s = trio.run(compare, clients)

    def track_write_us(self, _clients: int) -> float:
        return self.write_s * 1e6

    def track_ratio_to_append(self, _clients: int) -> float:
        return self.write_s / self.append_s


if __name__ == "__main__":
    for clients in CLIENTS:
        appended, written = trio.run(compare, clients)
        print(
            f"{clients:3} clients: write {written * 1e6:7.0f} us, append alone "
            f"{appended * 1e6:7.0f} us, ratio {written / appended:.2f}"
        )
