"""Carries messages through chains: a message in, effects out.   [sans-IO]

    run = engine.begin(message, now)
    call = run.advance()                # None: done; else a script that somebody has to run
    ... run.advance(ScriptAnswer(...)) until it is None
    run.effects

Order is deterministic: one queue a message, nodes in the order in which they are reached, their
connections in the order of the export. Work is bounded: a message visits `steps_max` nodes in all,
copies and chains included. Whatever a node raises is a failure of that message at that node, and
leaves it by Failure; a failure that nothing is connected to is told as an event.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from edgesync.model import Action, EntityType, Event, EventType
from edgesync.rules.alarm import Alarm, as_alarm
from edgesync.rules.effects import (
    DeleteAttributes,
    Effect,
    PushEvent,
    ReplyTo,
    SetAttributes,
)
from edgesync.rules.message import Message, Originator
from edgesync.rules.model import FAILURE
from edgesync.rules.node import (
    Facts,
    Node,
    NodeFailure,
    Now,
    Out,
    Outs,
    Place,
    ScriptAnswer,
    ScriptCall,
    failed,
)
from edgesync.rules.nodes.flow import ChainInput, ChainOutput
from edgesync.rules.state import Rows, State

log = logging.getLogger(__name__)

STEPS_MAX: Final = 1000
# Effects of one message: each is work for the store.
EFFECTS_MAX: Final = 2000
ERROR_CHARS_MAX: Final = 300
INPUT_CHARS_MAX: Final = 2000
# What belongs to entities and not to one node.
ALARMS: Final = "alarms"
PROFILES: Final = "profiles"
# Failures of a node that are told as events: the first ones of each minute; all are counted.
TOLD_A_MINUTE: Final = 5
MINUTE_NS: Final = 60 * 1_000_000_000


class NodeCount(msgspec.Struct, kw_only=True):
    """Counts of a node since the start."""

    chain: str
    node: str
    type: str
    messages: int = 0
    failures: int = 0
    last_error: str = ""
    last_error_ns: int = 0


class Wired(msgspec.Struct, kw_only=True):
    """A node and where its messages go: relation in lower case → nodes, in order."""

    node: Node
    targets: Mapping[str, Sequence[str]]
    count: NodeCount


class ChainSet(msgspec.Struct, kw_only=True):
    """All chains of an edge, ready to run.

    nodes   by their keys
    firsts  of each chain by its name: the node that its messages begin at
    inputs  of nodes that lead into another chain: that chain's name
    root    name of the chain that messages begin in; none: nothing happens to them
    """

    nodes: Mapping[str, Wired]
    firsts: Mapping[str, str | None]
    inputs: Mapping[str, str] = {}
    root: str = ""


class Visit(msgspec.Struct, frozen=True):
    """A message that is about to reach a node, and the nodes it has to come back to."""

    node: str
    message: Message
    stack: tuple[str, ...] = ()


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One node's work on one message, for a dry run."""

    chain: str
    node: str
    type: str
    message: Message
    outs: tuple[tuple[str, Message], ...] = ()
    effects: tuple[Effect, ...] = ()
    problem: str = ""


class Engine:
    """See the module.

    facts   what is known about entities
    edge    what generators make messages of
    trace   is told of each visit; None: of none
    """

    def __init__(
        self,
        chains: ChainSet,
        facts: Facts,
        edge: Originator,
        *,
        state: State | None = None,
        steps_max: int = STEPS_MAX,
        trace: Callable[[Trace], None] | None = None,
    ) -> None:
        self.chains = chains
        self.facts, self.edge, self.trace = facts, edge, trace
        self.state = State() if state is None else state
        self.steps_max = steps_max
        self.unhandled = 0
        self._told: dict[str, tuple[int, int]] = {}  # node: minute, events told in it

    def swap(self, chains: ChainSet) -> None:
        """Go on with other chains. Nodes that kept their id keep what they remember and count."""
        for key, wired in chains.nodes.items():
            before = self.chains.nodes.get(key)
            if before is not None:
                for field in ("messages", "failures", "last_error", "last_error_ns"):
                    setattr(wired.count, field, getattr(before.count, field))
        self.chains = chains
        self.state.drop_others([*chains.nodes, ALARMS, PROFILES])

    def start(self, now: Now) -> "Run":
        """Let all nodes begin: generators ask to be woken."""
        keys = list(self.chains.nodes)
        return Run(self, now, [], starts=keys)

    def begin(self, message: Message, now: Now) -> "Run":
        """Let a message begin at the root chain."""
        return Run(self, now, self._root(message))

    def wake(self, node: str, name: str, now: Now) -> "Run":
        """Let a node go on whose time has come (`State.take_due`)."""
        return Run(self, now, [], wakes=[(node, name)])

    def answer(self, reply: ReplyTo, relation: str, message: Message, now: Now) -> "Run":
        """Go on behind a node that had asked somebody, with what it was answered."""
        run = Run(self, now, [])
        wired = self.chains.nodes.get(reply.node)
        if wired is not None:
            if relation == FAILURE:
                problem = message.metadata.get("error", "")
                run.fail(wired, message, problem, reply.stack)
            else:
                run.follow(wired, Out(relation, message), reply.stack)
        return run

    def counts(self) -> list[NodeCount]:
        return [wired.count for wired in self.chains.nodes.values()]

    def _root(self, message: Message) -> list[Visit]:
        first = self.chains.firsts.get(self.chains.root)
        return [] if first is None else [Visit(first, message)]

    def may_tell(self, node: str, now_ns: int) -> bool:
        minute, told = self._told.get(node, (0, 0))
        if minute != now_ns // MINUTE_NS:
            minute, told = now_ns // MINUTE_NS, 0
        self._told[node] = (minute, told + 1)
        return told < TOLD_A_MINUTE


class Run:
    """The work on one message. `effects` are complete once `advance` has returned None.

    steps  nodes that the message has reached so far
    """

    def __init__(
        self,
        engine: Engine,
        now: Now,
        visits: Iterable[Visit],
        *,
        starts: Sequence[str] = (),
        wakes: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.now = now
        self.edge = engine.edge
        self.facts = engine.facts
        self.effects: list[Effect] = []
        self.is_done = False
        self._engine = engine
        self._queue: deque[Visit] = deque(visits)
        self._injected: deque[Message] = deque()
        self.steps = 0
        self._at: Wired | None = None
        self._work = self._working(starts, wakes)
        self._is_begun = False

    def advance(self, answer: ScriptAnswer | None = None) -> ScriptCall | None:
        """Work until a script has to be run elsewhere, or until done (None)."""
        try:
            if not self._is_begun:
                self._is_begun = True
                return next(self._work)
            return self._work.send(answer or ScriptAnswer(problem="the script was not run"))
        except StopIteration:
            self.is_done = True
            return None

    # -- the work --------------------------------------------------------------------------------

    def _working(
        self, starts: Sequence[str], wakes: Sequence[tuple[str, str]]
    ) -> Generator[ScriptCall, ScriptAnswer, None]:
        nodes = self._engine.chains.nodes
        for key in starts:
            wired = nodes[key]
            yield from self._visit(wired, None, (), partial(wired.node.start, self))
        for key, name in wakes:
            if (found := nodes.get(key)) is not None:
                yield from self._visit(found, None, (), partial(found.node.wake, name, self))
        while self._queue or self._injected:
            if not self._queue:
                self._queue.extend(self._engine._root(self._injected.popleft()))
                continue
            visit = self._queue.popleft()
            wired = nodes[visit.node]
            wired.count.messages += 1
            self.steps += 1
            if self.steps > self._engine.steps_max:
                self._exhausted(wired, visit)
                return
            if isinstance(wired.node, ChainInput):
                self._enter(wired, visit)
            elif isinstance(wired.node, ChainOutput):
                self._leave(wired, visit)
            else:
                work = partial(wired.node.process, visit.message, self)
                yield from self._visit(wired, visit.message, visit.stack, work)

    def _visit(
        self, wired: Wired, message: Message | None, stack: tuple[str, ...],
        work: Callable[[], Outs],
    ) -> Generator[ScriptCall, ScriptAnswer, None]:  # fmt: skip
        """Let a node work; what it raises is a failure of this message at this node (I8)."""
        self._at, before = wired, len(self.effects)
        self._stack = stack
        problem, outs = "", list[Out]()
        try:
            made = work()
            if isinstance(made, Generator):
                entity = "" if message is None else str(message.originator)
                made = yield from self._scripted(made, wired, entity)
            outs = list(made)
        except NodeFailure as failure:
            problem = str(failure) or "failed"
        except UnicodeEncodeError:  # scripts can make them, and nothing that stores takes them
            problem = "half of a surrogate pair in a text"
        except OverflowError:
            problem = "a number beyond 64 bits"
        except Exception as error:
            log.exception("rules: %s", wired.node.place.label)
            problem = f"{type(error).__name__}: {error}"
        if problem:
            # What the node had begun to do before it failed is not done.
            del self.effects[before:]
        self._note(wired, message, outs, before, problem)
        if problem:
            shown = message or Message(
                type="", originator=self.edge, data={}, metadata={}, time_ns=self.now.wall_ns
            )
            self.fail(wired, shown, problem, stack)
            return
        for out in outs:
            self.follow(wired, out, stack)

    def _scripted(
        self,
        made: Generator[ScriptCall, ScriptAnswer, Iterable[Out]],
        wired: Wired,
        entity: str,
    ) -> Generator[ScriptCall, ScriptAnswer, Iterable[Out]]:
        answer: ScriptAnswer | None = None
        while True:
            try:
                call = made.send(answer) if answer is not None else next(made)
            except StopIteration as done:
                found: Iterable[Out] = done.value or ()
                return found
            answer = yield msgspec.structs.replace(call, entity=entity)
            self._at = wired

    def _note(
        self, wired: Wired, message: Message | None, outs: list[Out], before: int, problem: str
    ) -> None:
        if self._engine.trace is not None and message is not None:
            place = wired.node.place
            self._engine.trace(
                Trace(
                    chain=place.chain, node=place.name, type=place.type, message=message,
                    outs=tuple((one.relation, one.message) for one in outs),
                    effects=tuple(self.effects[before:]), problem=problem,
                )
            )  # fmt: skip

    def follow(self, wired: Wired, out: Out, stack: tuple[str, ...]) -> None:
        """Queue what is connected to a relation of a node."""
        for target in wired.targets.get(out.relation.lower(), ()):
            if target in self._engine.chains.firsts:  # another chain, for good
                first = self._engine.chains.firsts[target]
                if first is not None:
                    self._queue.append(Visit(first, out.message))
            else:
                self._queue.append(Visit(target, out.message, stack))

    def fail(self, wired: Wired, message: Message, problem: str, stack: tuple[str, ...]) -> None:
        """Count a failure, and let the message leave by Failure, or tell it if nobody takes it."""
        count = wired.count
        count.failures += 1
        problem = problem[:ERROR_CHARS_MAX].encode(errors="replace").decode()
        count.last_error, count.last_error_ns = problem, self.now.wall_ns
        out = failed(message, wired.node.place, problem)
        if wired.targets.get(FAILURE.lower()):
            self.follow(wired, out, stack)
            return
        self._engine.unhandled += 1
        place = wired.node.place
        if self._engine.may_tell(place.key, self.now.wall_ns):
            log.warning("rules: %s: %s", place.label, count.last_error)
            self.effects.append(PushEvent(self._failure_event(place, message, count.last_error)))

    def _failure_event(self, place: Place, message: Message, problem: str) -> Event:
        # In ASCII: whatever is wrong with the message, it can be told.
        try:
            shown = json.dumps(message.data, separators=(",", ":"), default=str)
        except RecursionError:
            shown = "(nested too deeply)"
        body = {
            "what": "rule_failed", "chain": place.chain, "node": place.name, "error": problem,
            "type": message.type, "originator": str(message.originator),
            "message": shown[:INPUT_CHARS_MAX],
        }  # fmt: skip
        return Event(
            type=EventType.LIFECYCLE, action=Action.NONE, entity_type=EntityType.EDGE,
            entity_id=self.edge.name, body=json.dumps(body).encode(), time_ns=self.now.wall_ns,
        )  # fmt: skip

    def _exhausted(self, wired: Wired, visit: Visit) -> None:
        self._queue.clear()
        self._injected.clear()
        steps = self._engine.steps_max
        wired.count.failures += 1
        wired.count.last_error = f"the message has been through {steps} nodes; that is the most"
        wired.count.last_error_ns = self.now.wall_ns
        self._engine.unhandled += 1
        place = wired.node.place
        if self._engine.may_tell(place.key, self.now.wall_ns):
            event = self._failure_event(place, visit.message, wired.count.last_error)
            self.effects.append(PushEvent(event))

    def _enter(self, wired: Wired, visit: Visit) -> None:
        chain = self._engine.chains.inputs[wired.node.place.key]
        first = self._engine.chains.firsts.get(chain)
        self._note(wired, visit.message, [], len(self.effects), "")
        if first is not None:
            stack = (*visit.stack, wired.node.place.key)
            self._queue.append(Visit(first, visit.message, stack))

    def _leave(self, wired: Wired, visit: Visit) -> None:
        out = Out(wired.node.place.name, visit.message)
        self._note(wired, visit.message, [out], len(self.effects), "")
        if not visit.stack:
            return
        back = self._engine.chains.nodes.get(visit.stack[-1])
        if back is not None:  # it may have gone while somebody outside was asked
            self.follow(back, out, visit.stack[:-1])

    # -- Step: what nodes may do -----------------------------------------------------------------

    @property
    def _key(self) -> str:
        assert self._at is not None
        return self._at.node.place.key

    def effect(self, effect: Effect) -> None:
        if len(self.effects) >= EFFECTS_MAX:
            raise NodeFailure(f"{EFFECTS_MAX} effects of one message; that is the most")
        reply_to = getattr(effect, "reply_to", None)
        if isinstance(reply_to, ReplyTo):
            reply_to = msgspec.structs.replace(reply_to, stack=self._stack)
            effect = msgspec.structs.replace(effect, reply_to=reply_to)
        if isinstance(effect, SetAttributes | DeleteAttributes):
            self.facts.change(effect)
        self.effects.append(effect)

    def inject(self, message: Message) -> None:
        self._injected.append(message)

    def get(self, name: str) -> Any:
        return self._engine.state.get(self._key, name)

    def put(self, name: str, value: Any) -> None:
        self._engine.state.put(self._key, name, value)

    def names(self) -> list[str]:
        return self._engine.state.names(self._key)

    def wake(self, name: str, in_s: float) -> None:
        self._engine.state.wake(self._key, name, in_s, self.now)

    def forget_wake(self, name: str) -> None:
        self._engine.state.forget_wake(self._key, name)

    def alarm(self, entity: Originator, kind: str) -> Alarm | None:
        stored = self._engine.state.get(ALARMS, f"{entity}\0{kind}")
        return None if stored is None else as_alarm(stored)

    def put_alarm(self, alarm: Alarm) -> None:
        name = f"{alarm.entity}\0{alarm.type}"
        self._engine.state.put(ALARMS, name, msgspec.to_builtins(alarm))


def finished(run: Run, ask: Callable[[ScriptCall], ScriptAnswer]) -> list[Effect]:
    """Carry a run through with scripts that answer at once; returns its effects."""
    call = run.advance()
    while call is not None:
        call = run.advance(ask(call))
    return run.effects


__all__ = ["ChainSet", "Engine", "NodeCount", "Rows", "Run", "Trace", "Wired", "finished"]
