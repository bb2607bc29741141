"""kill -9 of a real edge and a real hub, one after the other, at instants that a seed chooses."""

import os
import random
from collections.abc import Awaitable, Callable

import trio

from edgesync.demo.run import Line
from edgesync.demo.site import Site

# How long one lives before it is killed: half of them die before they are ready.
LIFE_S = (0.0, 1.2)


def kills_each(default: int) -> int:
    return int(os.environ.get("EDGESYNC_KILLS", default))


def unseen(line: Line) -> None:
    """Nobody looks at the terminal of this demo."""


async def no_work() -> None:
    """Kill them whatever they do."""


async def kill_both(
    site: Site, chance: random.Random, each: int, *, peace: int = 4,
    until_busy: Callable[[], Awaitable[None]] = no_work,
) -> int:  # fmt: skip
    """Kill edge and hub `each` times and start them again; returns how many kills that were.

    peace       of so many starts one waits until all is ready, or nothing would ever be delivered
    until_busy  waits until both do what they are to be killed in, of three lives before two
    """
    victims = ["edge", "hub"] * each
    chance.shuffle(victims)
    for number, victim in enumerate(victims):
        if number % 3:
            await until_busy()
        await trio.sleep(chance.uniform(*LIFE_S))
        await site.kill(victim)
        start = site.start_edge if victim == "edge" else site.start_hub
        await start(until_ready=number % peace == peace - 1)
    return len(victims)
