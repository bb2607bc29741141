"""Chains for tests, made as exports are, and what they lead to."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgesync.model import Reading, Value
from edgesync.rules.build import Loaded, Source, build
from edgesync.rules.catalog import PREFIX
from edgesync.rules.effects import DeleteAttributes, Effect, PutState, SetAttributes
from edgesync.rules.engine import Engine, Trace, finished
from edgesync.rules.message import POST_TELEMETRY, Message, Originator, device_message
from edgesync.rules.node import Now, ScriptAnswer, ScriptCall
from edgesync.rules.read import read_chains

SECOND_NS = 1_000_000_000
START_NS = 1_790_000_040 * SECOND_NS  # a full minute
EDGE = Originator("EDGE", "barn")

Node = tuple[str, str, dict[str, Any]]
Wire = tuple[int, int, str]


def exported(
    nodes: Sequence[Node], wires: Sequence[Wire] = (), *, name: str = "Root", first: int | None = 0,
    is_root: bool = True, **header: Any,
) -> bytes:  # fmt: skip
    """Return a chain as an export; types without a package are of edgesync."""
    return json.dumps(
        {
            "ruleChain": {"name": name, "root": is_root, "type": "EDGE", **header},
            "metadata": {
                "firstNodeIndex": first,
                "nodes": [
                    {
                        "type": kind if kind.startswith("edgesync.") else PREFIX + kind,
                        "name": label,
                        "configuration": configuration,
                        "additionalInfo": {"layoutX": 100, "layoutY": 100},
                    }
                    for kind, label, configuration in nodes
                ],
                "connections": [
                    {"fromIndex": source, "toIndex": target, "type": relation}
                    for source, target, relation in wires
                ],
                "ruleChainConnections": None,
            },
        }
    ).encode()


def loaded(*files: bytes, root: str = "", has_worker: bool = False) -> Loaded:
    sources = [
        Source(f"chain{index}.json", chain)
        for index, raw in enumerate(files)
        for chain in read_chains(raw, f"chain{index}.json")
    ]
    return build(sources, root=root, has_worker=has_worker)


class KnownFacts:
    """Facts of a test: attributes by scope and entity, newest readings, relations."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], dict[str, Value]] = {}
        self.points: dict[tuple[str, str], list[tuple[int, Value]]] = {}
        self.relations: dict[tuple[str, str, str], list[Originator]] = {}
        self.rules: Sequence[Any] = ()
        self.profiles: dict[str, str] = {}

    def profile(self, entity: Originator) -> str:
        return self.profiles.get(entity.name, "default")

    def attributes(self, entity: Originator, scope: str) -> Mapping[str, Value]:
        return self.of.get((entity.name, scope), {})

    def change(self, effect: SetAttributes | DeleteAttributes) -> None:
        known = self.of.setdefault((effect.entity.name, effect.scope), {})
        if isinstance(effect, SetAttributes):
            known.update(effect.values)
        else:
            for key in effect.keys:
                known.pop(key, None)

    def latest(self, entity: Originator, key: str) -> tuple[int, Value] | None:
        points = self.points.get((entity.name, key))
        return points[-1] if points else None

    def readings(
        self, entity: Originator, key: str, from_ns: int, to_ns: int
    ) -> list[tuple[int, Value]]:
        points = self.points.get((entity.name, key), [])
        return [one for one in points if from_ns <= one[0] <= to_ns]

    def alarm_rules(self, entity: Originator) -> Sequence[Any]:
        return self.rules

    def related(self, entity: Originator, direction: str, kind: str) -> list[Originator]:
        return self.relations.get((entity.name, direction, kind), [])


def no_worker(call: ScriptCall) -> ScriptAnswer:
    raise AssertionError(f"no script was to be run: {call}")


class Site:
    """Chains at work, with a clock that the test moves."""

    def __init__(
        self, *files: bytes, ask: Callable[[ScriptCall], ScriptAnswer] = no_worker, **options: Any
    ) -> None:
        self.facts = KnownFacts()
        self.now = Now(START_NS, 0)
        self.ask = ask
        self.visits: list[Trace] = []
        has_worker = ask is not no_worker
        self.loaded = loaded(*files, has_worker=has_worker)
        self.engine = Engine(
            self.loaded.chains, self.facts, EDGE, trace=self.visits.append, **options
        )
        self.effects(self.engine.start(self.now))

    def effects(self, run: Any) -> list[Effect]:
        found = finished(run, self.ask)
        self.engine.state.confirm()
        return found

    def send(self, message: Message) -> list[Effect]:
        return self.effects(self.engine.begin(message, self.now))

    def post(self, at_s: float = 0, entity: str = "d1", **data: Any) -> list[Effect]:
        """Post telemetry of so many seconds after the start."""
        time_ns = START_NS + round(at_s * SECOND_NS)
        return self.send(device_message(POST_TELEMETRY, entity, data, time_ns))

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass, and nodes be woken."""
        later = round(seconds * SECOND_NS)
        self.now = Now(self.now.wall_ns + later, self.now.monotonic_ns + later)
        found: list[Effect] = []
        while due := self.engine.state.take_due(self.now.monotonic_ns, 100):
            for node, name in due:
                found += self.effects(self.engine.wake(node, name, self.now))
        return found

    def left_by(self, node: str) -> list[str]:
        """Return the relations by which messages have left a node."""
        return [
            relation for visit in self.visits if visit.node == node for relation, _ in visit.outs
        ]

    def came_to(self, node: str) -> list[Message]:
        return [visit.message for visit in self.visits if visit.node == node]


SINK: Node = ("filter.TbMsgTypeFilterNode", "Sink", {"messageTypes": ["X"]})


def behind(node: Node, *relations: str) -> bytes:
    """Return a chain of one node and a sink behind each of its relations, Failure included."""
    names = [*relations, "Failure"]
    sinks = [(SINK[0], relation, SINK[2]) for relation in names]
    wires = [(0, index + 1, relation) for index, relation in enumerate(names)]
    return exported([node, *sinks], wires)


def states(effects: Sequence[Effect]) -> list[PutState]:
    return [one for one in effects if isinstance(one, PutState)]


def read_of(entity: str, key: str, value: Value, at_s: float = 0) -> Reading:
    return Reading(entity, key, value, START_NS + round(at_s * SECOND_NS))
