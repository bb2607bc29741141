"""What is understood is started again, later each time; what is not ends everything."""

from collections.abc import Sequence
from random import Random

import pytest
import trio
import trio.testing

from edgesync.errors import SourceTimeout, StoreFull
from edgesync.model import Event, Reading
from edgesync.sources.base import SourceStatus
from edgesync.supervise import RESTART, keep_running

pytestmark = pytest.mark.feature("K2")


class Nowhere:
    async def readings(self, readings: Sequence[Reading]) -> None: ...

    async def event(self, event: Event) -> None: ...


class Failing:
    """A source that ends in each of the given ways, one after the other."""

    name = "meter0"

    def __init__(self, ways: Sequence[tuple[float, Exception | None]]) -> None:
        self.ways = list(ways)
        self.started_at: list[float] = []

    async def run(self, sink: object) -> None:
        self.started_at.append(trio.current_time())
        lasts_s, error = self.ways.pop(0)
        await trio.sleep(lasts_s)
        if error is not None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._fail, error)

    async def _fail(self, error: Exception) -> None:
        raise error

    def statuses(self) -> Sequence[SourceStatus]:
        return ()

    def retry_now(self, name: str) -> bool:
        return False


SILENT = SourceTimeout("meter0", "no answer")
FULL = StoreFull(used_bytes=9, limit_bytes=10)


async def test_pauses_grow_up_to_a_cap(autojump_clock: trio.testing.MockClock) -> None:
    source = Failing([(0.0, SILENT if n % 2 else FULL) for n in range(12)] + [(0.0, None)])
    await keep_running(source, Nowhere(), Random(1))
    pauses = [b - a for a, b in zip(source.started_at, source.started_at[1:], strict=False)]
    assert pauses[0] < 2 * RESTART.base_s
    assert max(pauses) <= RESTART.cap_s * (1 + RESTART.jitter)
    assert pauses[-1] > pauses[0] * 10


async def test_a_source_that_ran_for_long_is_not_punished_for_its_past(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ways = [(0.0, SILENT)] * 8 + [(3600.0, SILENT), (0.0, None)]
    source = Failing(ways)
    await keep_running(source, Nowhere(), Random(1))
    assert source.started_at[-1] - source.started_at[-2] < 3600.0 + 2 * RESTART.base_s


async def test_what_is_not_understood_ends_the_nursery(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = Failing([(0.0, ZeroDivisionError())])
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await keep_running(source, Nowhere(), Random(1))
