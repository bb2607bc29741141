"""A process that projects a log into a state until it is killed.

    python -m tests.hubd.project.follower LOG DATABASE GENERATION

DATABASE is a path, or the URL of a PostgreSQL database.
"""

import sys
from pathlib import Path

import msgspec
import trio

from hubd.db.engine import parse_url
from hubd.log.base import Entry
from hubd.project import base, schedule
from hubd.project.cursors import read_cursor
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.state import State, open_state
from hubd.state.schema import Hub, open_schema
from tests.hubd.batches import Shelf


def save(entries: list[Entry], path: Path) -> None:
    path.write_bytes(msgspec.msgpack.encode(entries))


def open_at(database: str, generation: bytes) -> State:
    if database.startswith("postgresql:"):
        return open_schema(parse_url(database), Hub("key", "here:/hub"), generation)
    return open_state(Path(database), generation)


async def follow(entries: list[Entry], database: str, generation: bytes) -> None:
    """Print each position the telemetry projector comes to, and "done" when all is stored."""
    base.READ_BYTES = 1  # type: ignore[misc]  # a transaction an entry: many, to be killed between
    schedule.FULL_POINTS_MIN = schedule.SERIES_POINTS = 1  # type: ignore[misc]  # and each stored
    shelf = Shelf(entries)
    print("opening", flush=True)
    state = open_at(database, generation)
    projectors = Projectors(Live())
    telemetry = projectors.progress[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_projectors, shelf, state, projectors)
        while telemetry.position < shelf.head:
            await telemetry.reach(telemetry.position + 1)
            print(telemetry.position, flush=True)
        await projectors.reach(shelf.head)
        while stored(state) != shelf.head:  # noqa: ASYNC110  # that is on another thread
            await trio.sleep(0.001)
        print("done", flush=True)
        nursery.cancel_scope.cancel()


def stored(state: State) -> int:
    return state.read_now(lambda c: read_cursor(c, "telemetry")).position


if __name__ == "__main__":
    log = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=list[Entry])
    trio.run(follow, log, sys.argv[2], sys.argv[3].encode())
