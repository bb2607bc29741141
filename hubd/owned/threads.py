"""Threads in which the registry is asked, apart from those of everything else.

The registry answers one question at a time. One that is slow or away holds each thread that asks it
for seconds: were these Trio's own, batches and keys would wait for them.
"""

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# As many as Trio has: who asks a registry that is away is told so as soon.
PLACES: Final = trio.CapacityLimiter(40)


async def in_thread(ask: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Return what a question to the registry is answered, asked in a thread."""
    return await trio.to_thread.run_sync(ask, *arguments, limiter=PLACES)
