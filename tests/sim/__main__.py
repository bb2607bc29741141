"""`python -m tests.sim --seed 7` replays one world; `--seeds 500` runs many."""

import argparse
import sys
import time

from tests.sim.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="one world, twice: must be equal")
    parser.add_argument("--seeds", type=int, default=500, help="how many worlds, from 0 on")
    options = parser.parse_args()
    if options.seed is not None:
        world = World(options.seed)
        print(world.weather)
        digest = world.run()
        again = World(options.seed).run()
        print(f"seed {options.seed}: {world.steps} steps, {world.contents} records, {digest}")
        sys.exit(0 if digest == again else "the replay differs")
    started = time.monotonic()
    failed = 0
    for seed in range(options.seeds):
        try:
            World(seed).run()
        except AssertionError as error:
            failed += 1
            print(f"seed {seed}: {error}")
    spent = time.monotonic() - started
    print(f"{options.seeds - failed} passed, {failed} failed, {spent:.0f} s")
    sys.exit(1 if failed else 0)


main()
