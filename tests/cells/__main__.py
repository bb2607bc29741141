"""Many random schedules against the full history, on all processors: `make converge`.

python -m tests.cells --schedules 50000 [--first 0]
"""

import argparse
import multiprocessing
import os
import sys
import time

from tests.cells.world import World, run

CHUNK = 250


def failing(first: int) -> list[tuple[int, str]]:
    """The seeds of a chunk that diverge, and how."""
    found = []
    for seed in range(first, first + CHUNK):
        try:
            world = World(seed)
            run(world)
            world.check_counts()
        except Exception as error:
            found.append((seed, repr(error)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=50_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    begun, done, wrong = time.monotonic(), 0, 0
    chunks = range(arguments.first, arguments.first + arguments.schedules, CHUNK)
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for found in pool.imap_unordered(failing, chunks):
            done += CHUNK
            wrong += len(found)
            for seed, how in found:
                print(f"seed {seed}: {how}", flush=True)
            if sys.stderr.isatty():
                print(f"\r{done} schedules, {wrong} wrong", end="", file=sys.stderr, flush=True)
    print(f"{done} schedules, {wrong} wrong, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
