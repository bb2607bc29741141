"""Polls one device: due groups while it answers, a cheap probe now and then while it does not."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import trio

from edgesync.errors import RecordError, StoreCorrupt, StoreError, StoreUnwritable
from edgesync.model import EntityType, Event, EventType, Reading
from edgesync.report import Reporter
from edgesync.sources.base import BreakerState, Sink, SourceState, SourceStatus
from edgesync.sources.modbus.breaker import Breaker
from edgesync.sources.modbus.layout import Layout
from edgesync.sources.modbus.notices import Body, Notices
from edgesync.sources.modbus.pdu import (
    GATEWAY_SILENT,
    NOT_NOW,
    BadAnswer,
    DeviceException,
    Request,
)
from edgesync.sources.modbus.planner import Block, Learnt, Planner
from edgesync.sources.modbus.plausible import Plausibility
from edgesync.sources.modbus.poll import Answered, Poll
from edgesync.sources.modbus.schedule import Schedule
from edgesync.sources.modbus.tcp import Answer, Line, LineDown, NoAnswer

log = logging.getLogger(__name__)

# Weight of the newest response time in the smoothed one: the usual 1/8 of TCP's estimator.
SMOOTHING: Final = 0.125
# An answer that takes four times as long as usual is not coming soon.
PATIENCE_FACTOR: Final = 4.0
# Far less than any period: it only decides between units that are due together.
RANK_S: Final = 1e-6
# A request repeated after silence stands behind everything due until the middle of the next
# period: a neighbour then loses the turn to this unit once in a period, not twice.
REPEAT_PERIODS: Final = 1.5
# A device that refuses everything is asked this many smaller requests in a poll, not hundreds.
PARTS_IN_VAIN_MAX: Final = 64
# Exceptions that speak of the request (function, address, length): it will be so next time too.
# Others (4: device failure) may pass.
FOR_GOOD: Final = frozenset({1, 2, 3})
# A connection younger than this is not renewed for a probe.
RENEW_AGE_S: Final = 5.0
# No refusal of readings: the process ends, and the store is opened anew.
DISK_FAILS: Final = (StoreUnwritable, StoreCorrupt)


class _Busy(Exception):
    """The device goes on asking for patience."""


class _Silent(Exception):
    """The device cannot be reached, and not because of what was asked."""


class Unit:
    """One device on a line.

    phase   from 0 to 1: where in its period it is polled
    """

    def __init__(
        self, layout: Layout, line: Line, wall_ns: Callable[[], int], phase: float = 0.0
    ) -> None:
        self.name = layout.name
        self.is_line_away: Callable[[], bool] = lambda: True  # no unit of the line is online
        self._layout = layout
        self._line = line
        self._wall_ns = wall_ns
        self._periods = dict(layout.periods)
        self._units = {point.name: point.unit for point in layout.points}
        self._planner = Planner(layout)
        self._reporter = Reporter(dict(layout.rules))
        self._plausibility = Plausibility(dict(layout.plausible))
        self._breaker = Breaker()
        self._schedule = Schedule(layout.periods, 0.0, phase)
        self._notices = Notices()
        self._state = SourceState.STARTING
        self._wake = trio.Event()
        self._smoothed_s: float | None = None
        self._turn_share_s = float("inf")
        self._shortest_shared_s = float("inf")
        self._rank_s = 0.0
        self._lost_line = False
        self._is_alive = False  # something was answered in this poll, if only a refusal
        self._has_asked = False  # more than retries in this poll
        self._has_silent = False  # a block was silent in this poll
        self._in_vain = 0  # refusals in this poll while it brought no data
        self._learnt: Learnt | None = None  # before this poll's first refusal
        self._factors: dict[str, bytes] = {}  # of the last poll, read by requests of their own
        self._last_success: tuple[int, float] | None = None
        self._last_error = ""
        self._unread: dict[str, str] = {}  # series or point -> why it has no value
        self._counts = dict.fromkeys(
            ("polls", "readings", "unchanged", "errors", "timeouts", "rejected", "busy",
             "malformed", "implausible", "refused"), 0,
        )  # fmt: skip

    @property
    def shortest_period_s(self) -> float:
        return self._schedule.shortest_s

    @property
    def is_away(self) -> bool:
        return self._breaker.state() is not BreakerState.CLOSED

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
        self._schedule.begin(trio.current_time())
        try:
            while True:
                await self._sleep(sink)
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

    def _invalid_points(self) -> dict[str, str]:
        """Return every point that is not read, and why."""
        if self._state is SourceState.OFFLINE:
            reason = f"the device is offline: {self._last_error}"
            return {point.name: reason for point in self._layout.points}
        return dict(sorted((self._unread | self._planner.withheld).items()))

    # -- when -----------------------------------------------------------------------------------

    async def _sleep(self, sink: Sink) -> None:
        """Sleep until the next poll or probe, or until somebody wakes us; tell what waits."""
        while True:
            await self._tell_state(sink)
            probe_at_s = self._breaker.probe_at_s
            until_s = self._schedule.next_s if probe_at_s is None else probe_at_s
            if trio.current_time() >= until_s:
                await trio.lowlevel.checkpoint()
                return
            with trio.move_on_at(min(until_s, self._notices.next_s or until_s)):
                await self._wake.wait()
            if self._wake.is_set():
                self._wake = trio.Event()

    async def _poll(self, sink: Sink, *, is_alive: bool = False) -> None:
        """Read the groups that are due, report what arrived, note how the device is.

        is_alive   it has just answered something
        """
        self._is_alive = is_alive
        self._has_asked = self._has_silent = False
        self._in_vain, self._learnt = 0, None
        before = self._last_success
        polls: list[Poll] = []
        error: Exception | None = None
        try:
            await self._read_due(sink, polls)
        except (_Busy, _Silent, LineDown) as problem:
            error = problem
        for poll in polls:
            self._note_unread(poll.drop(), str(error))
            await self._deliver(sink, poll)
        if "close_after_poll" in self._layout.quirks:
            self._line.hang_up("closed after the poll, as the profile asks")
        has_data = self._last_success is not before
        if not has_data and error is None and self._has_asked:
            error = await self._missing_elsewhere()
        if error is not None and not has_data and self._learnt is not None:
            self._planner.unlearn(self._learnt)
        if isinstance(error, _Busy):
            self._breaker.succeed()
            self._state = SourceState.BUSY
        elif error is not None and (not has_data or isinstance(error, LineDown)):
            self._went_away(error)
        await self._tell_state(sink)
        if not self.is_away:
            await self._tell_points(sink)

    async def _probe(self, sink: Sink) -> None:
        """Ask something cheap of a device that is away; poll it as soon as it speaks."""
        if self.is_line_away():
            self._line.renew(RENEW_AGE_S)
        block = self._planner.probe()
        self._breaker.probe()
        # Behind every good device that is due in the next period, but never starved.
        urgency = trio.current_time() + 2 * self._schedule.shortest_s
        try:
            await self._read(block, urgency, self._layout.limits.retries)
        except (_Silent, LineDown, BadAnswer) as problem:
            self._planner.probed_in_vain()
            self._went_away(problem)
            return
        except (DeviceException, _Busy) as problem:
            self._last_error = str(problem)  # it speaks; whether it gives data, the poll shows
        self._planner.forgive()
        self._schedule.restart(trio.current_time())
        await self._poll(sink, is_alive=True)

    # -- reading --------------------------------------------------------------------------------

    async def _read_due(self, sink: Sink, polls: list[Poll]) -> None:
        """Read what is due until nothing is, the fast groups before the slow ones.

        Between two blocks it is looked whether a faster group has become due. After each poll of
        a faster group one block of a slower one is read, so that none starves.
        """
        while True:
            self._take_due(polls)
            if not polls:
                return
            poll = min(polls, key=lambda one: one.urgency)
            await self._read_next(sink, poll)
            if poll.is_done:
                polls.remove(poll)
                if polls:
                    slower = min(polls, key=lambda one: one.urgency)
                    await self._read_next(sink, slower)
                    if slower.is_done:
                        polls.remove(slower)

    def _take_due(self, polls: list[Poll]) -> None:
        now_s, due_s = trio.current_time(), self._schedule.next_s
        if now_s < due_s:
            return
        running = frozenset[str]().union(*(poll.groups for poll in polls))
        groups = self._schedule.take(now_s, running)
        if not groups:
            return
        self._counts["polls"] += 1
        self._planner.expire(now_s)
        factors: dict[str, bytes] = {}
        blocks: dict[float, list[Block]] = {}
        for block in self._planner.plan(groups):
            blocks.setdefault(block.period_s, []).append(block)
        retries = self._planner.retries(groups, now_s)
        if retries and not blocks:
            blocks[self.shortest_period_s] = []
        for period_s in sorted(blocks):
            names = [group for group in groups if self._periods[group] == period_s]
            polls.append(Poll(names, due_s, blocks[period_s], factors))
        if retries:
            polls[-1].retries.extend(retries)

    async def _read_next(self, sink: Sink, poll: Poll) -> None:
        block, is_retry = poll.take()
        self._has_asked |= not is_retry
        await self._read_block(poll, block, is_retry=is_retry)
        if poll.is_worth_delivering(self._planner.is_suspect):
            await self._deliver(sink, poll)

    async def _read_block(self, poll: Poll, block: Block, *, is_retry: bool) -> None:
        """Ask for one block; what it fails to bring does not stop the next."""
        # What was silent before costs one time-out, not several.
        is_extra = is_retry or self._planner.is_suspect(block)
        retries = 0 if is_extra or self._has_silent else self._layout.limits.retries
        urgency = poll.due_s + block.period_s
        try:
            answer = await self._read(block, urgency, retries)
        except _Silent as problem:
            self._has_silent = True
            self._note_failed(block, problem)
            if not await self._answers_elsewhere(block, urgency):
                raise
            self._planner.silent(block, self._last_error, trio.current_time())
            if is_extra:
                self._note_unread(poll.drop_extras(self._planner.is_suspect), "waits for its turn")
        except DeviceException as problem:
            self._is_alive = True
            self._note_failed(block, problem)
            self._refused(poll, block, problem.code)
        except BadAnswer as problem:
            self._is_alive = True
            self._note_failed(block, problem)
        else:
            self._is_alive = True
            self._planner.answered(block)
            poll.note(block, answer.data, self._wall_at(answer))

    async def _answers_elsewhere(self, block: Block, urgency: float) -> bool:
        """Find out whether the device is silent about `block` only."""
        if not self._is_alive and (other := self._planner.other_than(block)) is not None:
            try:
                await self._read(other, urgency + 2 * self._postponed_s, 0)
            except _Silent:
                return False
            except (DeviceException, BadAnswer):
                pass
            self._is_alive = True
        return self._is_alive

    async def _missing_elsewhere(self) -> Exception | None:
        """Find out whether the device gives data to anybody; a poll without is no proof.

        Returns why not.
        """
        reason = self._last_error or "the device refuses every address"
        block = self._planner.any_read()
        if block is None:
            return _Silent(reason)
        try:
            await self._read(block, trio.current_time() + 2 * self.shortest_period_s, 0)
        except (_Silent, _Busy, LineDown) as problem:
            return problem
        except (DeviceException, BadAnswer):
            return _Silent(reason)
        return None

    @property
    def _postponed_s(self) -> float:
        """What a request waits that is made once more after silence."""
        return REPEAT_PERIODS * self._schedule.shortest_s

    def _refused(self, poll: Poll, block: Block, code: int) -> None:
        if self._learnt is None:
            self._learnt = self._planner.learnt()
        self._in_vain += 1
        if self._in_vain > PARTS_IN_VAIN_MAX and not poll.has_answers:
            return
        poll.queue.extend(
            self._planner.refuse(
                block, self._last_error, trio.current_time(), for_good=code in FOR_GOOD
            )
        )

    async def _read(self, block: Block, urgency: float, tries_left: int) -> Answer:
        """Ask for a block, again after a time-out, a bad answer or a lost connection."""
        request = Request(self._layout.unit_id, block.table, block.address, block.count)
        limits = self._layout.limits
        busy_left = limits.busy_retries
        while True:
            try:
                return await self._ask(request, urgency)
            except DeviceException as problem:
                if problem.code in NOT_NOW:
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
                urgency += self._postponed_s

    async def _ask(self, request: Request, urgency: float) -> Answer:
        quirks = self._layout.quirks
        try:
            answer = await self._line.ask(
                request,
                self._layout.limits,
                urgency=urgency + self._rank_s,
                patience_s=self._patience_s(),
                any_unit_id="any_unit_id" in quirks,
                any_transaction_id="any_transaction_id" in quirks,
            )
        except (NoAnswer, LineDown, DeviceException, BadAnswer) as problem:
            self._count(problem)
            raise
        took_s = answer.answered_s - answer.sent_s
        usual_s = took_s if self._smoothed_s is None else self._smoothed_s
        self._smoothed_s = usual_s + SMOOTHING * (took_s - usual_s)
        return answer

    def _wall_at(self, answer: Answer) -> int:
        """Return the wall clock's time at which `answer` arrived."""
        return self._wall_ns() - round((trio.current_time() - answer.answered_s) * 1e9)

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
            self._counts["busy" if problem.code in NOT_NOW else "rejected"] += 1

    def _note_failed(self, block: Block, problem: Exception) -> None:
        self._last_error = f"{block.table} {block.address}: {problem}"
        self._note_unread([block], self._last_error)

    def _note_unread(self, blocks: Sequence[Block], reason: str) -> None:
        for block in blocks:
            self._unread.update((point.name, reason) for point in block.points())

    # -- reporting ------------------------------------------------------------------------------

    async def _deliver(self, sink: Sink, poll: Poll) -> None:
        """Hand what was answered to the sink, each reading with the time of its answer.

        Ages for reporting count from when polls were due: answers come a little early or late.
        """
        readings: list[Reading] = []
        before = self._last_success
        for answered in poll.deliverable():
            self._decode(answered, poll, readings)
            self._last_success = (answered.time_ns, trio.current_time())
        if poll.is_done:
            self._factors.update(poll.factors)
        if self._last_success is before:
            return
        if self._state is not SourceState.ONLINE:
            self._came_back()
            await self._tell_state(sink)
        due = self._reporter.select(readings, poll.due_s)
        self._counts["unchanged"] += len(readings) - len(due)
        if due:
            await self._store(sink, due, poll.due_s)

    def _decode(self, answered: Answered, poll: Poll, readings: list[Reading]) -> None:
        """Append the readings of a reply; note what has no value."""
        block, time_ns = answered.block, answered.time_ns
        # A factor that moved between two polls may have moved between the requests of this one.
        factors = {n: f for n, f in poll.factors.items() if self._factors.get(n, f) == f}
        values = block.reader.read(answered.data, factors)
        keys, units = block.reader.keys, self._units
        if not (self._unread or self._plausibility or None in values):
            readings += [
                Reading(self.name, key, value, time_ns, units.get(key, ""))
                for key, value in zip(keys, values, strict=True)
                if value is not None  # as was just seen; for the type checker
            ]
            return
        for key, value in zip(keys, values, strict=True):
            if value is None:
                self._unread[key] = block.reason(key, answered.data, factors)
                continue
            if self._plausibility and (
                problem := self._plausibility.problem(key, value, poll.due_s)
            ):
                self._counts["implausible"] += 1
                self._unread[key] = problem
                continue
            if self._unread:
                self._unread.pop(key, None)
            readings.append(Reading(self.name, key, value, time_ns, self._units.get(key, "")))
        if self._unread:
            # Points of several series are noted by their name when nothing of them came.
            for point in block.points():
                if point.symbols:
                    self._unread.pop(point.name, None)

    async def _store(self, sink: Sink, readings: Sequence[Reading], due_s: float) -> None:
        try:
            await sink.readings(readings)
        except DISK_FAILS:
            raise
        except (StoreError, RecordError) as problem:
            # The policy of a full store is the sink's; ours is to be there when it has room. What
            # is refused for another reason costs the others of this edge nothing either (I8).
            self._counts["refused"] += len(readings)
            self._last_error = str(problem)
            return
        self._counts["readings"] += len(readings)
        self._reporter.reported(readings, due_s)

    def _came_back(self) -> None:
        self._breaker.succeed()
        self._state = SourceState.ONLINE
        if self._notices.state is not SourceState.ONLINE:
            self._reporter.forget()
            self._notices.change(SourceState.ONLINE, self._wall_ns())

    def _went_away(self, problem: Exception) -> None:
        self._lost_line = isinstance(problem, LineDown)
        self._last_error = str(problem)
        self._breaker.fail(trio.current_time())
        self._state = SourceState.OFFLINE
        self._unread.clear()
        self._notices.change(SourceState.OFFLINE, self._wall_ns(), str(problem))

    async def _tell_state(self, sink: Sink) -> None:
        if self._notices.next_s is None:
            return
        found = self._notices.take_state(trio.current_time(), self._invalid_points())
        if found is not None:
            body, time_ns = found
            level = logging.INFO if body["state"] == SourceState.ONLINE else logging.WARNING
            log.log(level, "%s: %s at %s: %s", self.name, body["state"], self._line.address, body)
            await self._tell(sink, body, time_ns)

    async def _tell_points(self, sink: Sink) -> None:
        if self._state is not SourceState.ONLINE:
            return
        body = self._notices.take_points(self._invalid_points(), trio.current_time())
        if body is not None:
            await self._tell(sink, body, self._wall_ns())

    async def _tell(self, sink: Sink, body: Body, time_ns: int) -> None:
        address = f"{self._line.address}/{self._layout.unit_id}"
        body = body | {"source": "modbus", "address": address}
        event = Event(
            type=EventType.SOURCE, entity_type=EntityType.DEVICE, entity_id=self.name,
            body=msgspec.json.encode(body), time_ns=time_ns, created_ns=self._wall_ns(),
        )  # fmt: skip
        try:
            await sink.event(event)
        except DISK_FAILS:
            raise
        except (StoreError, RecordError) as error:
            self._last_error = str(error)
            self._notices.put_back(trio.current_time())
