"""Rules at work: brings messages to the engine, commits what follows, keeps time.

Messages are worked on in batches: while one is committed the next fills. Of a batch all effects and
all that nodes remember are one transaction (I2), and only after it does whoever brought a message
hear that it is stored (I1); a commit that fails takes back what nodes remember, and says so to them
all. Messages of one entity are worked on in the order in which they came, whatever scripts they
wait for; a script of one does not hold up those of others.

Chains are read again within seconds of a change of their files. Mistakes change nothing: the chains
before go on, and the log and the status say what is wrong. An edge that has had no good chains yet
stores and sends everything, as one without rules does.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
import trio.lowlevel

from edgesync.errors import ConfigError, RecordError, StoreError
from edgesync.model import Event, EventType, Lane, Reading
from edgesync.parts.part import Context, Part
from edgesync.refusal import refusal_reason
from edgesync.rules import effects as wanted
from edgesync.rules.calls import DeviceCalls
from edgesync.rules.engine import ALARMS, PROFILES, Engine, NodeCount, Run
from edgesync.rules.facts import EdgeFacts
from edgesync.rules.files import Rules, read_rules, stamp
from edgesync.rules.message import (
    CONNECT,
    DISCONNECT,
    POST_ATTRIBUTES,
    Message,
    Originator,
    device_message,
    telemetry_messages,
)
from edgesync.rules.node import NodeFailure, Now, ScriptAnswer, ScriptCall
from edgesync.rules.nodes.actions import ReplyToDeviceNode
from edgesync.rules.outward import Servers
from edgesync.rules.state import State
from edgesync.rules.worker.supervisor import ScriptWorker
from edgesync.status import RuleNodeStatus, RulesStatus
from edgesync_transport.seldom import Seldom

if TYPE_CHECKING:
    from edgesync.rules.alarm import Alarm

log = logging.getLogger(__name__)

DATABASE: Final = "rules"
BATCH_MAX: Final = 500
# Messages that wait; whoever brings more waits until there is room (I7).
WAITING_MAX: Final = 10_000
WATCH_S: Final = 2.0
WAKES_MAX: Final = 500
# The loop goes on after so many steps of nodes: doors answer meanwhile. A message costs something
# besides, so that there are 20 messages at most in between.
STEPS_A_TURN: Final = 200
STEPS_OF_A_MESSAGE: Final = 10
# A node is woken when its time has come. Alarms that others have changed are looked for so often,
# and before anything else is done.
TICK_S: Final = 1.0
RETRY_S: Final = 0.01

Begin = Callable[[Now], Run]


class _Item:
    """Runs that come from one source, and who waits for their commit."""

    __slots__ = ("begins", "done", "problem")

    def __init__(self, begins: Sequence[tuple[str, Begin]]) -> None:
        self.begins = begins
        self.done = trio.Event()
        self.problem: Exception | None = None


class RulesPart(Part):
    """See the module. `takes_readings`: chains decide what becomes of them."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        chains = context.settings.rules.chains
        self._place = context.folder / chains if chains else None
        self._engine: Engine | None = None
        self._state = State()
        self._facts = EdgeFacts(context, self._state)
        self._edge = Originator("EDGE", context.settings.edge.name)
        self._servers = Servers(self.answer)
        self._calls = DeviceCalls(context, self._take_call, self.answer)
        self._worker: ScriptWorker | None = None
        self._problem = ""
        self._messages = 0
        self._waiting: deque[_Item] = deque()
        self._arrived = trio.Event()
        self._room = trio.Condition()
        self._seen: tuple[Any, ...] = ()
        self._swaps: deque[Rules | None] = deque()
        self._worked_some = trio.Event()  # another time may be the next one now
        self._stepped = 0  # since others had a turn
        self._own = _Item([])  # of each batch: what nobody brings
        self._seldom = Seldom()
        self._script_turn = trio.Lock()  # the worker is for one thread at a time

    @property
    def takes_readings(self) -> bool:
        return self._engine is not None

    # -- life ------------------------------------------------------------------------------------

    def open(self) -> None:
        self._state.restore(self.context.recorder.store.rows(DATABASE), self._now())
        if self._place is None:
            return
        self._seen = stamp(self._place)
        try:
            self.take(self._read(self._place))
        except ConfigError as error:
            self._problem = str(error)
            log.error("rules: everything is stored and sent until this is mended: %s", error)

    def close(self) -> None:
        self._facts.close()
        self._calls.detach()
        if self._worker is not None:
            self._worker.close()

    async def run(self, *, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
        await self._facts.share(self._facts.unshared())
        self._facts.watch_alarms()
        self._facts.follow_hub()
        self._calls.attach()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            nursery.start_soon(self._keep_time)
            task_status.started()
            await self._work()

    def _now(self) -> Now:
        return Now(self.context.wall_ns(), self.context.monotonic_ns())

    # -- chains ----------------------------------------------------------------------------------

    def _read(self, place: Path) -> Rules:
        return read_rules(place, root=self.context.settings.rules.root)

    async def swap(self, rules: Rules | None) -> None:
        """Go on with other chains between two batches; done when this returns.

        None: everything is stored and sent again, and nodes forget what they remembered.
        """
        self._swaps.append(rules)
        await self._put([]).done.wait()

    def take(self, rules: Rules | None) -> None:
        """Go on with other chains, from the next message on."""
        if rules is None:
            self._take_none()
            return
        for doubt in rules.loaded.doubts:
            log.warning("rules: %s", doubt)
        self._facts.profiles = rules.profiles
        if self._worker is not None:
            self._worker.close()
        self._worker = ScriptWorker(rules.loaded.scripts) if rules.loaded.scripts else None
        if self._engine is None:
            self._engine = Engine(rules.loaded.chains, self._facts, self._edge, state=self._state)
        else:
            self._engine.swap(rules.loaded.chains)
        self._problem = ""
        self._put([("", self._engine.start)])

    def _take_none(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = self._engine = None
        self._facts.profiles = {}
        self._problem = ""
        self._state.drop_others([ALARMS, PROFILES])

    async def _watch(self) -> None:
        while True:
            await trio.sleep(WATCH_S)
            async with self._script_turn:
                if self._worker is not None:
                    await trio.to_thread.run_sync(self._worker.stop_if_idle)
            if self._place is None:
                continue
            seen = await trio.to_thread.run_sync(stamp, self._place)
            if seen == self._seen:
                continue
            self._seen = seen
            try:
                rules = await trio.to_thread.run_sync(self._read, self._place)
            except ConfigError as error:
                self._problem = str(error)
                log.error("rules: the chains before go on: %s", error)
            else:
                await self.swap(rules)

    # -- messages --------------------------------------------------------------------------------

    async def ingest(self, readings: Sequence[Reading]) -> None:
        """Let chains decide what becomes of readings; on disk when this returns.

        Raises StoreFull; then nothing has happened, and the caller may come again.
        """
        await self.send(telemetry_messages(list(readings)))

    async def send(self, messages: Sequence[Message]) -> None:
        """Let messages begin at the root chain; returns and raises as `ingest` does."""
        engine = self._running
        begins: list[tuple[str, Begin]] = [
            (str(one.originator), partial(engine.begin, self._with_profile(one)))
            for one in messages
        ]
        self._messages += len(begins)
        async with self._room:
            while sum(len(item.begins) for item in self._waiting) > WAITING_MAX:
                await self._room.wait()
        item = self._put(begins)
        await item.done.wait()
        if item.problem is not None:
            raise item.problem

    def _with_profile(self, message: Message) -> Message:
        profile = self._state.get(PROFILES, message.originator.name)
        return message if profile is None else message.with_metadata(deviceType=str(profile))

    async def took(self, event: Event) -> bool:
        """Let chains decide what becomes of a device's attributes; False for any other event.

        A device that comes or goes is told to them, too, but its event is stored as ever.
        """
        if self._engine is None:
            return False
        if event.type == EventType.ATTRIBUTES:
            body = _facts_of(event)
            if body.get("scope") != "client":
                return False
            message = device_message(
                POST_ATTRIBUTES, event.entity_id, body.get("values", {}), event.time_ns
            )
            await self.send([message])
            return True
        if event.type == EventType.SOURCE and event.entity_id:
            self._note_connection(event)
        return False

    def _note_connection(self, event: Event) -> None:
        body = _facts_of(event)
        state = body.get("state")
        if state not in ("online", "offline") or refusal_reason(event.type, event.body):
            return
        kind = CONNECT if state == "online" else DISCONNECT
        message = device_message(kind, event.entity_id, body, event.time_ns)
        self._messages += 1
        begin = partial(self._begin_connected, self._running, message)
        self._put([(str(message.originator), begin)])

    def _begin_connected(self, engine: Engine, message: Message, now: Now) -> Run:
        kind = message.data.get("type")
        if isinstance(kind, str) and kind:
            try:
                self._state.put(PROFILES, message.originator.name, kind)
            except NodeFailure as failure:
                log.error("rules: the type of %s: %s", message.originator, failure)
        return engine.begin(self._with_profile(message), now)

    def answer(self, reply: wanted.ReplyTo, relation: str, message: Message) -> None:
        """Go on behind a node that had asked somebody."""
        if self._engine is None:
            return  # the chains of whoever asked are gone
        begin = partial(self._running.answer, reply, relation, message)
        self._put([(str(message.originator), begin)])

    @property
    def _running(self) -> Engine:
        assert self._engine is not None, "asked only where takes_readings is true"
        return self._engine

    def _put(self, begins: Sequence[tuple[str, Begin]]) -> _Item:
        item = _Item(begins)
        self._waiting.append(item)
        self._arrived.set()
        return item

    # -- the work --------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        """Have a batch begun when the time of a node has come; that takes the due ones."""
        while True:
            left_s = self._left_s()
            if left_s <= 0:
                await self._put([]).done.wait()
                await trio.sleep(RETRY_S)  # of a store that is full, for one
                continue
            self._worked_some = trio.Event()
            with trio.move_on_after(left_s):
                await self._worked_some.wait()

    def _left_s(self) -> float:
        """Return for how long there is nothing to do that nobody brings."""
        times = [self._facts.again_ns]
        if self._engine is not None:
            if self._facts.has_news:
                return 0.0
            times.append(self._state.next_due_ns)
        now_ns = self.context.monotonic_ns()
        return min([TICK_S, *((one - now_ns) / 1e9 for one in times if one is not None)])

    def _of_others(self) -> list[tuple[str, Begin]]:
        """Return what begins because somebody else has acknowledged or cleared an alarm."""
        if self._engine is None:
            return []
        return [
            (str(one.originator), partial(self._engine.begin, one))
            for one in self._facts.messages_of_others()
        ]

    def _due(self) -> list[tuple[str, Begin]]:
        if self._engine is None:
            return []
        due = self._state.take_due(self.context.monotonic_ns(), WAKES_MAX)
        return [(f"{node}\0{name}", partial(self._engine.wake, node, name)) for node, name in due]

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._waiting:
                while self._swaps:
                    async with self._script_turn:
                        self.take(self._swaps.popleft())
                    log.info("rules: chains changed: %s", self._place or "assigned by the hub")
                items, count = list[_Item](), 0
                while self._waiting and count < BATCH_MAX:
                    items.append(self._waiting.popleft())
                    count += len(items[-1].begins)
                await self._carry_out([*items, self._own])
                self._worked_some.set()
                async with self._room:
                    self._room.notify_all()

    async def _carry_out(self, items: Sequence[_Item]) -> None:
        """Work on all messages of some items and commit what follows; tell those who wait."""
        try:
            await self._commit(items)
        except RecordError as error:
            # Nodes check what they want stored; what gets here all the same costs its own item.
            if items == [self._own]:
                if (before := self._seldom.ask("own")) is not None:
                    told = "rules: what is due, or others did to alarms, fails: %s; %d more before"
                    log.error(told, error, before)
                self._facts.drop_taken()
            self._withdraw()
            if len(items) > 1:
                for item in items:
                    await self._carry_out([item])
                return
            items[0].problem = error
        except StoreError as error:
            self._withdraw()
            for item in items:
                item.problem = error
        for item in items:
            item.done.set()

    def _withdraw(self) -> None:
        self._state.withdraw(self._now())
        self._facts.withdraw()

    async def _commit(self, items: Sequence[_Item]) -> None:
        begins = [one for item in items for one in item.begins]
        if self._own in items:
            begins += self._of_others() + self._due()
        found = await self._effects(begins)
        self._facts.check()
        recorder = self.context.recorder
        alarms: list[Alarm] = []
        kept: list[Reading] = []
        pushed: dict[Lane, list[Reading]] = {}
        told: list[tuple[Event, Lane]] = []
        outward: list[wanted.Effect] = []
        for effect in found:
            match effect:
                case wanted.SaveReadings(readings):
                    kept += readings
                case wanted.PushReadings(readings, lane):
                    pushed.setdefault(lane, []).extend(readings)
                case wanted.PushEvent(event, lane):
                    told.append((event, lane))
                case wanted.TellAlarm(alarm):
                    alarms.append(alarm)
                case _:
                    outward.append(effect)
        rows = self._state.changes()
        if kept or pushed or told or rows:
            here, *away = recorder.intake.within_limit_together([kept, *pushed.values()])
            sent = dict(zip(pushed, away, strict=True))
            await recorder.store_together(here, sent, told, DATABASE, rows)
        self._state.confirm()
        self._facts.confirm()
        await self._facts.share(alarms)
        for effect in outward:
            self._send_out(effect)

    async def _effects(self, begins: Sequence[tuple[str, Begin]]) -> list[wanted.Effect]:
        """Return the effects of all runs, in the order in which their messages came."""
        now = self._now()
        found: list[list[wanted.Effect]] = [[] for _ in begins]
        by_entity: dict[str, deque[int]] = {}
        for at, (entity, _) in enumerate(begins):
            by_entity.setdefault(entity, deque()).append(at)
        waiting: list[tuple[deque[int], Run, ScriptCall]] = []
        for queue in by_entity.values():
            waiting += await self._worked(queue, None, None, begins, now, found)
        while waiting:
            answers = await self._asked([call for _, _, call in waiting], now)
            again: list[tuple[deque[int], Run, ScriptCall]] = []
            for (queue, run, _), answer in zip(waiting, answers, strict=True):
                again += await self._worked(queue, run, answer, begins, now, found)
            waiting = again
        return [effect for some in found for effect in some]

    async def _worked(
        self, queue: deque[int], run: Run | None, answer: ScriptAnswer | None,
        begins: Sequence[tuple[str, Begin]], now: Now, found: list[list[wanted.Effect]],
    ) -> list[tuple[deque[int], Run, ScriptCall]]:  # fmt: skip
        """Work on the messages of one entity until one of them waits for a script."""
        while queue:
            run = begins[queue[0]][1](now) if run is None else run
            before = run.steps
            call = run.advance(answer)
            await self._let_others_work(max(run.steps - before, STEPS_OF_A_MESSAGE))
            if call is not None:
                return [(queue, run, call)]
            found[queue.popleft()] = run.effects
            run = answer = None
        return []

    async def _let_others_work(self, steps: int) -> None:
        """Give others a turn when it is time for one; `steps` have just been done."""
        self._stepped += steps
        if self._stepped >= STEPS_A_TURN:
            self._stepped = 0
            await trio.lowlevel.checkpoint()

    async def _asked(self, calls: Sequence[ScriptCall], now: Now) -> list[ScriptAnswer]:
        async with self._script_turn:
            worker = self._worker
            if worker is None:
                return [ScriptAnswer(problem="there is no script worker")] * len(calls)
            now_ms = now.wall_ns // 1_000_000
            return await trio.to_thread.run_sync(worker.call_all, calls, now_ms)

    async def _take_call(self, message: Message) -> bool:
        """Let chains have a device's call; return whether one of them may answer it."""
        engine = self._engine
        if engine is None:
            return False
        await self.send([message])
        return any(
            isinstance(wired.node, ReplyToDeviceNode) for wired in engine.chains.nodes.values()
        )

    # -- what leaves the edge --------------------------------------------------------------------

    def _send_out(self, effect: wanted.Effect) -> None:
        """Carry out what is no fact of the store; that is committed already."""
        match effect:
            case wanted.LogLine(node, text):
                log.info("rules: %s: %s", node, text)
            case wanted.CallDevice():
                self.context.parts.start_soon(self._calls.place, effect)
            case wanted.HttpRequest():
                self.context.parts.start_soon(self._servers.ask, effect)
            case wanted.ReplyToDevice(device, request_id, data):
                self._calls.reply(device.name, request_id, data)

    # -- status ----------------------------------------------------------------------------------

    def counts(self) -> Mapping[str, NodeCount]:
        """Return what each node has done since the start, by its key; empty without chains."""
        engine = self._engine
        return {} if engine is None else {k: one.count for k, one in engine.chains.nodes.items()}

    def status(self) -> Mapping[str, Any]:
        engine = self._engine
        if engine is None:
            empty = RulesStatus(root="", chains=(), messages=0, unhandled=0, problem=self._problem)
            return {"rules": empty}
        nodes = tuple(RuleNodeStatus(**msgspec.structs.asdict(one)) for one in engine.counts())
        return {
            "rules": RulesStatus(
                root=engine.chains.root,
                chains=tuple(engine.chains.firsts),
                messages=self._messages,
                unhandled=engine.unhandled,
                problem=self._problem,
                is_worker_running=self._worker is not None and self._worker.is_running,
                nodes=nodes,
            )
        }


def _facts_of(event: Event) -> dict[str, Any]:
    """Return what an event says; nothing of one that a program made its own way."""
    try:
        found = msgspec.json.decode(event.body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
