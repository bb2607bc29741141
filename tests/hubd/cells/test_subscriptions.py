"""News wakes those it concerns and nobody else, in any fleet."""

from contextlib import ExitStack
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from edgesync._native.keyspace import is_in
from edgesync_transport.link import Peer
from edgesync_transport.messages import Lane, Message, Page, Pull
from edgesync_transport.receiver import Receiver
from hubd.cells import Answers, HubCells
from hubd.cells.proposals import Name
from hubd.cells.subscriptions import INDEXED_MAX, Scope, Subscription, Subscriptions
from hubd.log.memory import MemoryLog
from tests.hubd.batches import START_NS, Edge

pytestmark = pytest.mark.feature("L8")

NOTHING: Scope = [(b"", False)]
FLEET = 40


def woken(subscriptions: dict[str, Subscription]) -> list[str]:
    return [edge for edge, one in subscriptions.items() if one.news.is_set()]


def subscribed(
    place: Subscriptions, stack: ExitStack, scopes: dict[str, Scope]
) -> dict[str, Subscription]:
    return {
        edge: stack.enter_context(place.open(edge, nth, scope))
        for nth, (edge, scope) in enumerate(scopes.items(), 1)
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"site/1/x", ["one", "all"]),
        (b"site/2/x", ["all"]),
        (b"site/1/secret/x", ["all"]),
        (b"site/", ["all"]),
        (b"other", ["all"]),
        (b"", ["all"]),
        (b"all/x", ["one", "all"]),
    ],
)
def test_a_key_wakes_those_who_want_it(key: bytes, expected: list[str]) -> None:
    place = Subscriptions()
    scopes: dict[str, Scope] = {
        "one": [(b"site/1/secret/", False), (b"site/1/", True), (b"all/", True), (b"", False)],
        "all": [],
        "none": NOTHING,
    }
    with ExitStack() as stack:
        found = subscribed(place, stack, scopes)
        place.wake_for([key])
        assert woken(found) == expected
        assert place.woken == len(expected)
    place.wake_for([key])
    place.wake_all()
    assert (len(place), place.woken) == (0, len(expected))


@given(
    key=st.binary(max_size=4),
    rules=st.lists(st.tuples(st.binary(max_size=3), st.booleans()), max_size=5),
)
@example(key=b"key0", rules=[(b"@/mine/", True), (b"@/", False)])  # as every edge asks
def test_whoever_wants_a_key_is_woken_whatever_its_rules(
    key: bytes, rules: list[tuple[bytes, bool]]
) -> None:
    scope = sorted(rules, key=lambda rule: -len(rule[0]))
    place = Subscriptions()
    with place.open("edge", 1, scope) as one:
        place.wake_for([key])
        assert one.news.is_set() == is_in(key, scope)


def test_a_scope_of_many_prefixes_is_found_all_the_same() -> None:
    place = Subscriptions()
    many = [(b"p%03d/" % n, True) for n in range(INDEXED_MAX + 1)] + [(b"", False)]
    with place.open("edge", 1, many) as one:
        place.wake_for([b"q"])
        assert not one.news.is_set()
        place.wake_for([b"p007/x"])
        assert one.news.is_set()


class Fleet:
    """Edges whose questions wait at a hub, each for keys of its own."""

    def __init__(self, answers: Answers, log: MemoryLog) -> None:
        self.answers = answers
        self.log = log
        self.told: list[tuple[str, Page]] = []
        self._replicas: dict[str, int] = {}

    async def send(self, peer: Peer, message: Message) -> None:
        if isinstance(message, Page):
            self.told.append((peer.edge, message))

    async def ask(self, edge: str, scope: Scope, wait_s: float = 60.0) -> None:
        """Ask as an edge that has all there is."""
        cells = self.answers.cells
        if edge not in self._replicas:
            await self.answers.propose(Name(edge, b"", 0))
            self._replicas[edge] = cells.replicas()[edge].r
        pull = Pull(
            epoch=1, token=1, keyspace=cells.mark.keyspace, replica=self._replicas[edge],
            base=cells.space.seq, after=cells.space.seq, made=0, wait_s=wait_s,
            payload=msgspec.msgpack.encode(scope),
        )  # fmt: skip
        self.answers.ask(Peer(route=edge.encode(), edge=edge), pull, Receiver(edge), self.send)

    async def settle(self) -> None:
        await self.answers.cells.wait_durable()
        await trio.testing.wait_all_tasks_blocked(0.05)


async def test_one_key_reaches_the_three_that_want_it_and_wakes_nobody_else(tmp_path: Path) -> None:
    log = MemoryLog()
    cells = HubCells(tmp_path, log.generation, 0, random=Random(1))
    answers = Answers(cells, log)
    fleet = Fleet(answers, log)
    async with trio.open_nursery() as nursery:
        await nursery.start(answers.run)
        await fleet.settle()
        for number in range(FLEET):
            shared = [(b"three/", True)] if number < 3 else []
            await fleet.ask(f"edge{number}", [(b"site/%d/" % number, True), *shared, *NOTHING])
        await fleet.settle()
        assert len(answers.subscriptions) == FLEET
        cells.ask("SET", ["three/x", "1"])
        await fleet.settle()
        assert sorted(edge for edge, _ in fleet.told) == ["edge0", "edge1", "edge2"]
        assert answers.subscriptions.woken == 3
        cells.ask("SET", ["nobody's", "1"])
        await fleet.settle()
        assert answers.subscriptions.woken == 3
        nursery.cancel_scope.cancel()
    cells.close()


async def test_readings_wake_nobody_and_cost_the_keys_no_commit(tmp_path: Path) -> None:
    log = MemoryLog()
    cells = HubCells(tmp_path, log.generation, 0, random=Random(1))
    answers = Answers(cells, log)
    fleet = Fleet(answers, log)
    meter = Edge("meter", Lane.BULK)
    async with trio.open_nursery() as nursery:
        await nursery.start(answers.run)
        await fleet.settle()
        await fleet.ask("edge", [])
        await fleet.settle()
        commits, head = cells.generation, log.head
        for position in range(head + 1, head + 6):
            meter.readings(START_NS, {("meter", "P"): float(position)})
            for _ in cells.project(meter.entry(position)):
                pass
        assert cells.position == head + 5
        assert not cells.rows.is_changed
        assert cells.generation == commits
        assert answers.subscriptions.woken == 0
        nursery.cancel_scope.cancel()
    cells.close()
    again = HubCells(tmp_path, log.generation, 5, random=Random(1))
    assert again.mark.position == 5
    again.close()
