"""Changed devices are stopped and started; the others are not touched."""

from collections.abc import Sequence
from random import Random

import trio
from trio.testing import wait_all_tasks_blocked

from edgesync.sources.base import BreakerState, Sink, SourceStatus
from edgesync.sources.running import RunningSources


class Device:
    def __init__(self, name: str) -> None:
        self.name = name
        self.log: list[str] = []
        self.may_stop = trio.Event()
        self.may_stop.set()

    async def run(self, sink: Sink) -> None:
        self.log.append("started")
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self.may_stop.wait()
            self.log.append("stopped")

    def statuses(self) -> Sequence[SourceStatus]:
        away = self.name == "c"
        breaker = BreakerState.OPEN if away else BreakerState.CLOSED
        return [SourceStatus(name=self.name, kind="test", breaker=breaker)]

    def retry_now(self, name: str) -> bool:
        self.log.append("asked")
        return True


async def test_only_what_changed_is_stopped_and_started() -> None:
    a, b, b2, c = (Device(name) for name in "abbc")
    async with trio.open_nursery() as nursery:
        running = RunningSources(nursery, sink=None, random=Random(0))  # type: ignore[arg-type]
        assert await running.change_to({"a": a, "b": b}) == (0, 2)
        await wait_all_tasks_blocked()
        assert await running.change_to({"a": Device("again"), "b changed": b2, "c": c}) == (1, 2)
        await wait_all_tasks_blocked()
        assert [one.log for one in (a, b, b2, c)] == [
            ["started"], ["started", "stopped"], ["started"], ["started"],
        ]  # fmt: skip
        assert [status.name for status in running.statuses()] == ["a", "b", "c"]
        running.retry_now()
        assert [one.log[-1] for one in (a, b2, c)] == ["started", "started", "asked"]
        assert await running.change_to({}) == (3, 0)


async def test_the_newest_of_changes_at_once_is_what_runs_and_nothing_else() -> None:
    a, b, c = (Device(name) for name in "abc")
    async with trio.open_nursery() as nursery:
        running = RunningSources(nursery, sink=None, random=Random(0))  # type: ignore[arg-type]

        async def change_to(device: Device) -> None:
            await running.change_to({device.name: device})

        await change_to(a)
        await wait_all_tasks_blocked()
        a.may_stop = trio.Event()
        async with trio.open_nursery() as changes:
            for device in (b, c):
                changes.start_soon(change_to, device)
                await wait_all_tasks_blocked()
            a.may_stop.set()
        await wait_all_tasks_blocked()
        assert a.log == ["started", "stopped"]
        assert [one.name for one in running.statuses()] == ["c"]
        assert (b.log, c.log) == (["started", "stopped"], ["started"])
        assert await running.change_to({}) == (1, 0)
