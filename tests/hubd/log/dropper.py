"""A process that fills a log and drops from it until it is killed: `python -m` with a path."""

import sys
from pathlib import Path
from random import Random

import trio

from edgesync_transport.messages import Codec, Lane
from hubd.log.base import Append, LogFull
from hubd.log.lmdb import LmdbLog
from hubd.log.retention import Policy, Retention
from tests.hubd.log.test_contract import INCARNATION, NOWHERE

LIMIT = 4 << 20


async def fill(path: Path) -> None:
    """Print how far the log is stored, and how far dropped, after each commit."""
    log = LmdbLog(path, map_bytes_max=LIMIT)
    retention = Retention(log, Policy(keep_bytes=LIMIT // 2), [])
    session = await log.open_session("barn", INCARNATION, NOWHERE)
    seq, random = session.floors[Lane.BULK].floor, Random(1)
    noise = random.randbytes(100_000)
    while True:
        asked = Append(
            edge="barn", epoch=session.epoch, incarnation=INCARNATION, lane=Lane.BULK,
            first=seq + 1, last=seq + 1, prev_chain=seq, last_chain=seq + 1, codec=Codec.DEAD,
            payload=noise[: random.randint(1000, 100_000)],
        )  # fmt: skip
        try:
            await log.append([asked])
        except LogFull:
            pass
        else:
            seq += 1
        await retention.drop_what_may_go(by_age=False)
        print(seq, log.oldest, flush=True)


if __name__ == "__main__":
    trio.run(fill, Path(sys.argv[1]))
