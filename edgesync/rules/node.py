"""The interface of nodes: a message comes in, messages leave, effects are noted.   [sans-IO]

A node holds its configuration and nothing else. What it remembers of earlier messages is in the
engine's state, under its own id and a name of its choice, so that it outlives a swap of the chain
and a restart of the edge.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import msgspec

from edgesync.model import Value
from edgesync.rules.alarm import Alarm
from edgesync.rules.effects import DeleteAttributes, Effect, SetAttributes
from edgesync.rules.message import Message, Originator
from edgesync.rules.model import FAILURE, SUCCESS

if TYPE_CHECKING:
    from edgesync.rules.scripts.script import Scripts

SCOPES: Final[Mapping[str, str]] = {
    "CLIENT_SCOPE": "client", "SERVER_SCOPE": "server", "SHARED_SCOPE": "shared",
}  # fmt: skip


class NodeFailure(Exception):
    """A message that a node cannot deal with: it leaves by Failure, with this text."""


class Out(msgspec.Struct, frozen=True):
    """A message that leaves a node."""

    relation: str
    message: Message


class Now(msgspec.Struct, frozen=True):
    """The time, as whoever runs the engine sees it.

    wall_ns  for times that are told; monotonic_ns: for durations, a clock nobody sets (I5)
    """

    wall_ns: int
    monotonic_ns: int


class ScriptCall(msgspec.Struct, frozen=True):
    """A script that runs elsewhere: the engine goes on with what it returns.

    script  its id; arguments: what JSON can say
    entity  whose message it is for: of one that takes too long the others' go on
    """

    script: str
    arguments: tuple[Any, ...]
    entity: str = ""


class ScriptAnswer(msgspec.Struct, frozen=True):
    """The value that a script returned, or why it did not."""

    value: Any = None
    problem: str = ""


class Facts(Protocol):
    """Knowledge of this edge about entities: asked by nodes, answered from memory."""

    def profile(self, entity: Originator) -> str:
        """Return the type of a device, "default" if nobody said."""

    def attributes(self, entity: Originator, scope: str) -> Mapping[str, Any]: ...

    def change(self, effect: SetAttributes | DeleteAttributes) -> None:
        """Take changes that are not stored yet: nodes behind see them. Raises NodeFailure."""

    def latest(self, entity: Originator, key: str) -> tuple[int, Value] | None:
        """Return time and value of the newest reading of a series."""

    def readings(
        self, entity: Originator, key: str, from_ns: int, to_ns: int
    ) -> list[tuple[int, Value]]:
        """Return the readings kept here of a time span, both ends included, by time."""

    def alarm_rules(self, entity: Originator) -> Sequence[Any]:
        """Return the alarm rules of a device's profile (nodes/profile.py)."""

    def related(self, entity: Originator, direction: str, kind: str) -> list[Originator]:
        """Return entities by a relation: `direction` FROM or TO the entity."""


class Step(Protocol):
    """The means of a node while it works on a message."""

    now: Now
    facts: Facts
    edge: Originator

    def inject(self, message: Message) -> None:
        """Let a message begin at the root chain, once this one is done."""

    def alarm(self, entity: Originator, kind: str) -> Alarm | None:
        """Return the newest alarm of an entity and a type, active or cleared."""

    def put_alarm(self, alarm: Alarm) -> None:
        """Take a new state of an alarm."""

    def effect(self, effect: Effect) -> None: ...

    def get(self, name: str) -> Any:
        """Return what this node remembers under a name, None if nothing."""

    def put(self, name: str, value: Any) -> None:
        """Remember what msgpack can say; None forgets. Raises NodeFailure beyond the limit."""

    def names(self) -> list[str]:
        """Return the names under which this node remembers something."""

    def wake(self, name: str, in_s: float) -> None:
        """Have `Node.wake` called with this name, once, after this time or a little later.

        A name has one time: the last one counts. It outlives a restart of the edge.
        """

    def forget_wake(self, name: str) -> None:
        """Have it not called after all."""


# A node returns what leaves it; one with a script in the worker yields the call first.
Outs = Iterable[Out] | Generator[ScriptCall, ScriptAnswer, Iterable[Out]]


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of configurations: fields as in the export, those that mean nothing here are ignored."""


class Place(msgspec.Struct, frozen=True):
    """The identity of a node.

    key    unique among all chains, the same after a swap
    label  for people: chain and name
    """

    key: str
    chain: str
    name: str
    type: str

    @property
    def label(self) -> str:
        return f"{self.chain} / {self.name}"


class Node:
    """Base of all node types.

    node_type  as in the catalog
    config     what its configuration is read as
    relations  by which messages leave it, Failure left out; None: by any word
    """

    node_type: ClassVar[str]
    config: ClassVar[type[NodeConfig]] = NodeConfig
    relations: ClassVar[frozenset[str] | None] = frozenset({SUCCESS})

    def __init__(self, place: Place, config: Any, scripts: "Scripts") -> None:
        """Raises ValueError, a sentence for people, for a configuration that cannot work."""
        self.place = place

    def process(self, message: Message, step: Step) -> Outs:
        """Return what leaves this node; raises NodeFailure."""
        raise NotImplementedError

    def start(self, step: Step) -> Outs:
        """Begin, with a chain or with the edge: a chance to ask for `wake`."""
        return ()

    def wake(self, name: str, step: Step) -> Outs:
        """Go on at a time that was asked for."""
        return ()

    @classmethod
    def doubts(cls, config: Any) -> list[str]:
        """Return what of a configuration is not carried out here, for `edgesync rules check`."""
        return []


def success(message: Message) -> list[Out]:
    return [Out(SUCCESS, message)]


def failed(message: Message, place: Place, problem: str) -> Out:
    """Return a message as it leaves by Failure, with the node and why in its metadata."""
    return Out(FAILURE, message.with_metadata(error=problem, failedNode=place.label))


def scope_of(name: str) -> str:
    return SCOPES.get(name, "server")
