"""Polls one device: due groups while it answers, a cheap probe now and then while it does not."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from edgesync.errors import StoreFull
from edgesync.model import EntityType, Event, EventType, Reading, Value
from edgesync.report import Reporter
from edgesync.sources.base import BreakerState, Sink, SourceState, SourceStatus
from edgesync.sources.modbus.breaker import Breaker
from edgesync.sources.modbus.layout import Layout
from edgesync.sources.modbus.pdu import (
    ACKNOWLEDGE,
    BUSY,
    GATEWAY_SILENT,
    ILLEGAL_ADDRESS,
    BadAnswer,
    DeviceException,
    Request,
    decode_data,
)
from edgesync.sources.modbus.planner import Block, Planner
from edgesync.sources.modbus.schedule import Schedule
from edgesync.sources.modbus.tcp import Line, LineDown, NoAnswer

log = logging.getLogger(__name__)

# A sensor that comes and goes every poll is shown in the status, but sends no event each time.
INVALID_EVENT_S: Final = 60.0
# Weight of the newest response time in the smoothed one: the usual 1/8 of TCP's estimator.
SMOOTHING: Final = 0.125
# An answer that takes four times as long as usual is not coming soon.
PATIENCE_FACTOR: Final = 4.0
# Far less than any period: it only decides between units that are due together.
RANK_S: Final = 1e-6
# A request repeated after silence stands behind everything due until the middle of the next
# period: a neighbour then loses the turn to this unit once in a period, not twice.
REPEAT_PERIODS: Final = 1.5


class _Busy(Exception):
    """The device goes on asking for patience."""


class _Silent(Exception):
    """The device cannot be reached, and not because of what was asked."""


class Unit:
    """One device on a line."""

    def __init__(self, layout: Layout, line: Line, wall_ns: Callable[[], int]) -> None:
        self.name = layout.name
        self._layout = layout
        self._line = line
        self._wall_ns = wall_ns
        self._units = {point.name: point.unit for point in layout.points}
        self._planner = Planner(layout)
        self._reporter = Reporter(dict(layout.rules))
        self._breaker = Breaker()
        self._schedule = Schedule(layout.periods, 0.0)
        self._state = SourceState.STARTING
        self._told_state: SourceState | None = None  # by the last event
        self._wake = trio.Event()
        self._smoothed_s: float | None = None
        self._turn_share_s = float("inf")
        self._shortest_shared_s = float("inf")
        self._rank_s = 0.0
        self._lost_line = False
        self._suspect: Block | None = None
        self._last_success: tuple[int, float] | None = None
        self._last_error = ""
        self._invalid: set[str] = set()
        self._told_invalid: tuple[tuple[str, ...], float] = ((), float("-inf"))
        self._counts = dict.fromkeys(
            ("polls", "readings", "unchanged", "errors", "timeouts", "rejected", "busy",
             "malformed", "refused"), 0,
        )  # fmt: skip

    @property
    def shortest_period_s(self) -> float:
        return self._schedule.shortest_s

    def share(self, period_s: float, units: int, rank: int) -> None:
        """Share the line with others, of which the fastest has a period of `period_s`.

        Were all units silent at once, each would hold the turn for its share: half a period
        together, which leaves the other half to those that answer. A fixed order (`rank`) of
        units that are due together keeps the time between two polls of each from wavering by
        a whole round.
        """
        self._shortest_shared_s = period_s
        self._turn_share_s = period_s / 2 / units
        self._rank_s = rank * RANK_S

    async def run(self, sink: Sink) -> None:
        """Poll until cancelled."""
        self._schedule.restart(trio.current_time())
        try:
            while True:
                await self._sleep()
                if self._breaker.state() is BreakerState.CLOSED:
                    await self._poll(sink)
                else:
                    await self._probe(sink)
        finally:
            self._state = SourceState.STOPPED

    def retry_now(self) -> None:
        """Probe at once if the device is away, and ask again for what it refused."""
        self._planner.forgive()
        self._breaker.hurry(trio.current_time())
        self._wake.set()

    def line_is_up(self) -> None:
        """Probe at once if the connection was what failed."""
        if self._lost_line:
            self._lost_line = False
            self.retry_now()

    def status(self) -> SourceStatus:
        now_s = trio.current_time()
        probe_at_s = self._breaker.probe_at_s
        last_ns, last_s = self._last_success or (None, None)
        return SourceStatus(
            name=self.name,
            kind="modbus",
            address=f"{self._line.address} unit {self._layout.unit_id}",
            state=self._state,
            breaker=self._breaker.state(),
            retry_in_s=None if probe_at_s is None else max(probe_at_s - now_s, 0.0),
            last_success_ns=last_ns,
            age_s=None if last_s is None else now_s - last_s,
            last_error=self._last_error,
            late=self._line.late.get(self._layout.unit_id, 0),
            connects=self._line.connects,
            overruns=self._schedule.overruns,
            invalid_points=self._invalid_points(),
            **self._counts,
        )

    def _invalid_points(self) -> tuple[str, ...]:
        return tuple(sorted(self._invalid.union(self._planner.refused_points)))

    async def _sleep(self) -> None:
        """Sleep until the next poll or probe, or until somebody wakes us."""
        while True:
            probe_at_s = self._breaker.probe_at_s
            until_s = self._schedule.next_s if probe_at_s is None else probe_at_s
            if trio.current_time() >= until_s:
                await trio.lowlevel.checkpoint()
                return
            with trio.move_on_at(until_s):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _poll(self, sink: Sink) -> None:
        """Read the groups that are due, report what arrived, note how the device is."""
        due_s = self._schedule.next_s
        groups = self._schedule.take(trio.current_time())
        self._counts["polls"] += 1
        values: dict[str, Value | None] = {}
        error: Exception | None = None
        try:
            await self._read_all(groups, due_s, values)
        except (_Busy, _Silent, LineDown) as problem:
            error = problem
        if "close_after_poll" in self._layout.quirks:
            self._line.hang_up("closed after the poll, as the profile asks")
        if values:
            await self._deliver(sink, values, due_s)
        elif error is None:
            error = _Silent(self._last_error or "the device refuses every address")
        if isinstance(error, _Busy):
            self._state = SourceState.BUSY
        elif error is not None and (not values or isinstance(error, LineDown)):
            await self._went_away(sink, error)

    async def _probe(self, sink: Sink) -> None:
        block = self._planner.probe()
        self._breaker.probe()
        # Behind every good device that is due in the next period, but never starved.
        urgency = trio.current_time() + self._schedule.shortest_s
        try:
            await self._read(block, urgency)
        except DeviceException as problem:
            # It speaks. Whether it gives data, the next poll shows.
            self._last_error = str(problem)
            if problem.code != ILLEGAL_ADDRESS:
                await self._went_away(sink, problem)
                return
        except _Busy:
            pass
        except (_Silent, LineDown, BadAnswer) as problem:
            await self._went_away(sink, problem)
            return
        self._planner.forgive()
        self._breaker.succeed()
        self._schedule.restart(trio.current_time())

    async def _read_all(
        self, groups: frozenset[str], due_s: float, values: dict[str, Value | None]
    ) -> None:
        """Fill `values`; what one request fails to bring does not stop the next."""
        plan = self._planner.plan(groups)
        # A device may be silent about one block only: that one must not hide the others.
        queue = deque(sorted(plan, key=lambda block: block == self._suspect))
        while queue:
            block = queue.popleft()
            try:
                words = await self._read(block, due_s)
            except _Silent as problem:
                self._suspect = block
                self._last_error = f"{block.table} {block.address}: {problem}"
                raise
            except DeviceException as problem:
                self._last_error = f"{block.table} {block.address}: {problem}"
                if problem.code == ILLEGAL_ADDRESS and self._planner.refuse(block):
                    queue.extendleft(reversed(self._planner.parts(block)))
            except BadAnswer as problem:
                self._last_error = f"{block.table} {block.address}: {problem}"
            else:
                values.update(block.decode(words))

    async def _read(self, block: Block, urgency: float) -> Sequence[int]:
        """Ask for a block, again after a time-out, a bad answer or a lost connection."""
        request = Request(self._layout.unit_id, block.table, block.address, block.count)
        limits = self._layout.limits
        tries_left = limits.retries
        busy_left = limits.busy_retries
        while True:
            try:
                return await self._ask(request, urgency)
            except DeviceException as problem:
                if problem.code in (ACKNOWLEDGE, BUSY):
                    if not busy_left:
                        raise _Busy(str(problem)) from problem
                    busy_left -= 1
                    await trio.sleep(limits.busy_wait)
                    continue
                if problem.code not in GATEWAY_SILENT:
                    raise
                failure: Exception = _Silent(str(problem))
            except NoAnswer as problem:
                failure = _Silent(str(problem))
            except (BadAnswer, LineDown) as problem:
                failure = problem
            if not tries_left:
                raise failure
            tries_left -= 1
            if not isinstance(failure, LineDown):
                urgency += REPEAT_PERIODS * self._schedule.shortest_s

    async def _ask(self, request: Request, urgency: float) -> Sequence[int]:
        try:
            answer = await self._line.ask(
                request,
                self._layout.limits,
                urgency=urgency + self._rank_s,
                patience_s=self._patience_s(),
                any_unit_id="any_unit_id" in self._layout.quirks,
                any_transaction_id="any_transaction_id" in self._layout.quirks,
            )
        except (NoAnswer, LineDown, DeviceException, BadAnswer) as problem:
            self._count(problem)
            raise
        took_s = answer.answered_s - answer.sent_s
        usual_s = took_s if self._smoothed_s is None else self._smoothed_s
        self._smoothed_s = usual_s + SMOOTHING * (took_s - usual_s)
        return decode_data(answer.data, request)

    def _patience_s(self) -> float:
        if not self._layout.limits.overlap:
            return float("inf")
        usual_s = PATIENCE_FACTOR * (self._smoothed_s or 0.0)
        return max(min(usual_s, self._shortest_shared_s / 4), self._turn_share_s)

    def _count(self, problem: Exception) -> None:
        self._counts["errors"] += 1
        if isinstance(problem, NoAnswer):
            self._counts["timeouts"] += 1
        elif isinstance(problem, BadAnswer):
            self._counts["malformed"] += 1
        elif isinstance(problem, DeviceException):
            is_busy = problem.code in (ACKNOWLEDGE, BUSY)
            self._counts["busy" if is_busy else "rejected"] += 1

    async def _deliver(self, sink: Sink, values: dict[str, Value | None], due_s: float) -> None:
        """Hand the poll's readings to the sink under one time, and events beside them.

        Ages for reporting count from when polls were due: answers come a little early or late.
        """
        now_s = trio.current_time()
        # Whole milliseconds: devices are not more exact, and such times take less room.
        time_ns = self._wall_ns() // 1_000_000 * 1_000_000
        self._last_success = (time_ns, now_s)
        self._state = SourceState.ONLINE
        if self._told_state is not SourceState.ONLINE:
            self._told_state = SourceState.ONLINE
            self._reporter.forget()
            log.info("%s: online at %s", self.name, self._line.address)
            await self._tell(sink, {"state": "online"})
        self._invalid.difference_update(values)
        self._invalid.update(key for key, value in values.items() if value is None)
        readings = [
            Reading(self.name, key, value, time_ns, self._unit_of(key))
            for key, value in values.items()
            if value is not None
        ]
        due = self._reporter.select(readings, due_s)
        self._counts["unchanged"] += len(readings) - len(due)
        if due:
            await self._store(sink, due, due_s)
        await self._tell_invalid(sink, now_s)

    async def _store(self, sink: Sink, readings: Sequence[Reading], due_s: float) -> None:
        try:
            await sink.readings(readings)
        except StoreFull as problem:
            # The policy of a full store is the sink's; ours is to be there when it has room.
            self._counts["refused"] += len(readings)
            self._last_error = str(problem)
            return
        self._counts["readings"] += len(readings)
        self._reporter.reported(readings, due_s)

    def _unit_of(self, key: str) -> str:
        return self._units.get(key, "")

    async def _tell_invalid(self, sink: Sink, now_s: float) -> None:
        names = self._invalid_points()
        told, at_s = self._told_invalid
        if names != told and now_s - at_s >= INVALID_EVENT_S:
            self._told_invalid = (names, now_s)
            await self._tell(sink, {"state": "online", "invalid": names})

    async def _went_away(self, sink: Sink, problem: Exception) -> None:
        self._lost_line = isinstance(problem, LineDown)
        self._last_error = str(problem)
        self._breaker.fail(trio.current_time())
        self._state = SourceState.OFFLINE
        if self._told_state is not SourceState.OFFLINE:
            self._told_state = SourceState.OFFLINE
            log.warning("%s: offline: %s", self.name, problem)
            await self._tell(sink, {"state": "offline", "reason": str(problem)})

    async def _tell(self, sink: Sink, body: dict[str, object]) -> None:
        now_ns = self._wall_ns()
        body |= {"source": "modbus", "address": f"{self._line.address}/{self._layout.unit_id}"}
        event = Event(
            type=EventType.SOURCE, entity_type=EntityType.DEVICE, entity_id=self.name,
            body=msgspec.json.encode(body), time_ns=now_ns, created_ns=now_ns,
        )  # fmt: skip
        try:
            await sink.event(event)
        except StoreFull as error:
            self._last_error = str(error)
