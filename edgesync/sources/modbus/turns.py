"""Who may speak next on a shared connection: the most urgent one waiting."""

import heapq
from itertools import count

import trio


class Turns:
    """A lock whose next holder is the waiting task with the least `urgency`."""

    def __init__(self) -> None:
        self._is_held = False
        self._arrival = count()
        self._waiting: list[tuple[float, int, trio.Event]] = []

    async def acquire(self, urgency: float) -> None:
        """Wait for the turn; `urgency` is the time it is due. Whoever got it calls `release`."""
        mine = (urgency, next(self._arrival), trio.Event())
        heapq.heappush(self._waiting, mine)
        if not self._is_held:
            # Tasks that are due together wake in any order: let all of them queue, then choose.
            self._is_held = True
            await trio.lowlevel.cancel_shielded_checkpoint()
            self.release()
        await self._wait(mine)

    def release(self) -> None:
        """Let the most urgent one go on."""
        self._is_held = bool(self._waiting)
        if self._waiting:
            heapq.heappop(self._waiting)[2].set()

    async def _wait(self, mine: tuple[float, int, trio.Event]) -> None:
        try:
            await mine[2].wait()
        except trio.Cancelled:
            if mine[2].is_set():
                self.release()  # the turn came together with the cancellation
            else:
                self._waiting.remove(mine)
                heapq.heapify(self._waiting)
            raise
