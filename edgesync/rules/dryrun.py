"""A message through chains without an edge: what each node would make of it."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edgesync.model import Lane, Value
from edgesync.rules.effects import DeleteAttributes, PushEvent, SetAttributes, TellAlarm
from edgesync.rules.engine import Engine, Run, Trace
from edgesync.rules.files import Rules
from edgesync.rules.message import Message, Originator
from edgesync.rules.node import Now, ScriptAnswer
from edgesync.rules.worker.supervisor import ScriptWorker

if TYPE_CHECKING:
    from edgesync.rules.effects import Effect

SECOND_NS: Final = 1_000_000_000
WAKES_MAX: Final = 1000


class DryFacts:
    """Knows what was given, and what chains have done in this run."""

    def __init__(self, attributes: Mapping[tuple[Originator, str], dict[str, Value]]) -> None:
        self._attributes: dict[tuple[Originator, str], dict[str, Any]] = dict(attributes)

    def profile(self, entity: Originator) -> str:
        return "default"

    def attributes(self, entity: Originator, scope: str) -> Mapping[str, Any]:
        return self._attributes.get((entity, scope), {})

    def change(self, effect: SetAttributes | DeleteAttributes) -> None:
        known = self._attributes.setdefault((effect.entity, effect.scope), {})
        if isinstance(effect, SetAttributes):
            known.update(effect.values)
        else:
            for key in effect.keys:
                known.pop(key, None)

    def latest(self, entity: Originator, key: str) -> tuple[int, Value] | None:
        return None

    def readings(
        self, entity: Originator, key: str, from_ns: int, to_ns: int
    ) -> list[tuple[int, Value]]:
        return []

    def alarm_rules(self, entity: Originator) -> Sequence[Any]:
        return ()

    def related(self, entity: Originator, direction: str, kind: str) -> list[Originator]:
        return []


class DryRun:
    """Chains at work without a store; `visits` and `effects` are what would have happened."""

    def __init__(
        self, rules: Rules, attributes: Mapping[tuple[Originator, str], dict[str, Value]],
        now_ns: int,
    ) -> None:  # fmt: skip
        self.visits: list[Trace] = []
        self.effects: list[Effect] = []
        facts = DryFacts(attributes)
        edge = Originator("EDGE", "edge")
        self._engine = Engine(rules.loaded.chains, facts, edge, trace=self.visits.append)
        self._now = Now(now_ns, 0)
        self._worker = ScriptWorker(rules.loaded.scripts)
        self._carry_out(self._engine.start(self._now))

    def send(self, message: Message) -> None:
        self._carry_out(self._engine.begin(message, self._now))

    def wait(self, seconds: float) -> None:
        """Let time pass: nodes whose time comes are woken, each at its own."""
        end_ns = self._now.monotonic_ns + round(seconds * SECOND_NS)
        state = self._engine.state
        for _ in range(WAKES_MAX):
            due_ns = state.next_due_ns
            if due_ns is None or due_ns > end_ns:
                break
            self._move_to(max(due_ns, self._now.monotonic_ns))
            for node, name in state.take_due(self._now.monotonic_ns, WAKES_MAX):
                self._carry_out(self._engine.wake(node, name, self._now))
        self._move_to(end_ns)

    def _move_to(self, monotonic_ns: int) -> None:
        passed_ns = monotonic_ns - self._now.monotonic_ns
        self._now = Now(self._now.wall_ns + passed_ns, monotonic_ns)

    def _carry_out(self, run: Run) -> None:
        call = run.advance()
        while call is not None:
            answer: ScriptAnswer = self._worker.call(call, self._now.wall_ns // 1_000_000)
            call = run.advance(answer)
        self._engine.state.confirm()
        self.effects += run.effects

    def close(self) -> None:
        self._worker.close()


def visit_of(one: Trace) -> dict[str, Any]:
    """Return what a node made of a message, as JSON can say it."""
    return {
        "chain": one.chain,
        "node": one.node,
        "type": one.type,
        "message": _message_of(one.message),
        "outs": [{"relation": relation, **_message_of(out)} for relation, out in one.outs],
        "effects": [effect_of(effect) for effect in one.effects],
        "problem": one.problem,
    }


def _message_of(message: Message) -> dict[str, Any]:
    return {
        "type": message.type,
        "entity": str(message.originator),
        "data": message.data,
        "metadata": dict(message.metadata),
    }


def effect_of(effect: "Effect") -> dict[str, Any]:
    """Return an effect as JSON can say it, with its name."""
    if isinstance(effect, PushEvent):
        event = effect.event
        return {
            "effect": "PushEvent", "lane": effect.lane.name.lower(), "entity": event.entity_id,
            "body": json.loads(event.body),
        }  # fmt: skip
    if isinstance(effect, TellAlarm):
        return {
            "effect": "TellAlarm", "what": effect.action.name,
            "lane": effect.alarm.lane.name.lower(), "alarm": effect.alarm.told(),
        }  # fmt: skip
    found = msgspec.to_builtins(effect)
    found.pop("reply_to", None)
    if "lane" in found:
        found["lane"] = Lane(found["lane"]).name.lower()
    return {"effect": type(effect).__name__, **found}
