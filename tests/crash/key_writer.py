"""A process that writes keys and reports what was acknowledged, until it is killed.

    key_writer.py DIRECTORY

Number n is written to one of twenty keys and counted in the same commit, so a reader knows from the
count what each key must be. One line a commit on standard output, after it: the count.
"""

import os
import sys
from pathlib import Path
from random import Random

import trio

from edgesync.cells import DATABASE
from edgesync.store import logged_cells as module
from edgesync.store.edgecells import EdgeCells
from edgesync.store.journal import EdgeStore

KEYS = 20


def open_keys(path: Path) -> tuple[EdgeStore, EdgeCells]:
    store = EdgeStore(path, databases=(DATABASE,), map_bytes=1 << 20, map_bytes_max=64 << 20)
    return store, EdgeCells(store, random=Random(1))


async def main(path: Path) -> None:
    module.WAL_ROWS = 25  # type: ignore[misc]  # a commit of LMDB now and then, not after 5 s
    store, cells = open_keys(path)
    with store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cells.keep_committing)
            count = 0
            while True:
                count += 1
                cells.run([b"SET", b"k%d" % (count % KEYS), b"%d" % count * (count % 40 + 1)])
                cells.run([b"INCR", b"count"])
                if count % 3:
                    await cells.wait_durable()
                else:  # as a program does that cannot wait, whatever is on its way
                    for _ in range(count % 5):
                        await trio.lowlevel.checkpoint()
                    cells.commit()
                os.write(1, b"%d\n" % count)


def check_keys(path: Path) -> int:
    """Verify every key that is there; returns the count."""
    store, cells = open_keys(path)
    with store:
        found = cells.run([b"GET", b"count"])
        count = int(found) if isinstance(found, bytes) else 0
        for number in range(max(1, count - KEYS + 1), count + 1):
            found = cells.run([b"GET", b"k%d" % (number % KEYS)])
            assert found == b"%d" % number * (number % 40 + 1)
        told = cells.space.take(1 << 20, 1 << 30)
        assert len(told) == cells.space.pending
        return count


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
