"""An edge is told of the keys it wishes to have and the hub grants, and of no byte beside."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import trio

from edgesync import EdgeNode
from edgesync._native import pack
from edgesync_transport.link import Peer
from edgesync_transport.messages import ConflictReport, Message, Page, Pull
from edgesync_transport.receiver import Receiver
from edgesync_transport.wire import encode
from hubd.cells import Answers
from tests.hubd.batches import INCARNATION
from tests.hubd.keys import meet, open_answers
from tests.hubd.test_settings_act import served
from tests.hubd.yard import Yard
from tests.sites import PATIENCE_S, Sites, settle

pytestmark = pytest.mark.feature("L5", "C14")

MINE = (b"b/",)


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


def keys_of(node: EdgeNode) -> list[bytes]:
    found = node.command("KEYS", "*")
    assert isinstance(found, list)
    return sorted(bytes(key) for key in found if isinstance(key, bytes))


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(PATIENCE_S * 100):
        if is_so():
            return
        await trio.sleep(0.01)
    raise TimeoutError("it never became so")


def bytes_of(message: Message) -> bytes:
    """Return all there is in a message; of keys also what they are unpacked."""
    raw = b"".join(encode(message))
    if isinstance(message, Page) and message.payload and message.parts == 1:
        raw += pack.unpack(message.payload, limit_bytes=1 << 24)
    return raw


async def test_an_edge_has_what_it_is_granted_and_keeps_what_it_wrote(sites: Sites) -> None:
    sites.grants["b"] = MINE
    async with sites.hub(), sites.node("a") as a, sites.node("b") as b:
        for key in ("a/secret1", "b/shared", "c/secret2"):
            await a.execute("SET", key, f"value of {key}")
        await b.execute("SET", "b/own", "1")
        await b.execute("SET", "out/own", "1")
        await settle(a, b)
        assert keys_of(a) == [b"a/secret1", b"b/own", b"b/shared", b"c/secret2", b"out/own"]
        assert keys_of(b) == [b"b/own", b"b/shared", b"out/own"]
        assert b.status().granted == ("b/",)
        assert a.status().granted == ()
        assert not any(b"secret" in bytes_of(one) for edge, one in sites.sent if edge == "b")
        # What it compares with the hub is what both mean, so nothing has to be asked for again.
        sync = b.cell_sync
        assert sync is not None
        sync.check_soon()
        while not sync.checks:
            await settle(b)
        assert sync.refetches == 0


@pytest.mark.slow
async def test_a_grant_acts_while_the_edge_waits_and_after_it_was_away(sites: Sites) -> None:
    sites.grants["b"] = MINE
    async with sites.hub(), sites.node("a") as a:
        async with sites.node("b") as b:
            assert keys_of(b) == []
            await a.execute("SET", "c/one", "1")
            await a.execute("SET", "b/one", "1")
            await settle(a, b)
            assert keys_of(b) == [b"b/one"]
            sites.grants["b"] = (b"b/", b"c/")
            sites.answers.regrant("b")
            await until(lambda: keys_of(b) == [b"b/one", b"c/one"])
            # Narrower: what it has it keeps, what is new it is not told.
            sites.grants["b"] = MINE
            sites.answers.regrant("b")
            await until(lambda: b.status().granted == ("b/",))
            await a.execute("SET", "c/two", "secret")
            await settle(a, b)
            assert b"c/two" not in keys_of(b)
        rounds = len([one for edge, one in sites.sent if edge == "b"])
        async with sites.node("b") as b:
            assert b"c/two" not in keys_of(b)
            await settle(b)
            # It remembers its grant: no pass from the beginning, nor one it is not meant to have.
            assert b"c/two" not in keys_of(b)
            later = [one for edge, one in sites.sent[rounds:] if edge == "b"]
            assert not any(b"secret" in bytes_of(one) for one in later)
        del sites.grants["b"]
        async with sites.node("b") as b:
            assert keys_of(b) != keys_of(a)
            await settle(a, b)
            await until(lambda: keys_of(b) == keys_of(a))


class Asker:
    """Asks as an edge may that heeds no rule."""

    def __init__(self, answers: Answers, edge: str) -> None:
        self._answers = answers
        self._peer = Peer(route=b"r", edge=edge)
        self._receiver = Receiver(edge)
        # The session in which it wrote, see `meet`.
        self._receiver.session = SimpleNamespace(incarnation=INCARNATION)  # type: ignore[assignment]
        self.heard: list[Message] = []

    async def _send(self, _peer: Peer, message: Message) -> None:
        self.heard.append(message)

    async def ask(self, pull: Pull) -> Page:
        before = len(self.heard)
        self._answers.ask(self._peer, pull, self._receiver, self._send)
        await until(lambda: any(isinstance(one, Page) for one in self.heard[before:]))
        page = self.heard[-1]
        assert isinstance(page, Page)
        return page


async def test_an_edge_that_asks_for_more_learns_no_byte_of_it(tmp_path: Path) -> None:
    """Whatever it says it was granted, wishes for, lacks or has a conflict about."""
    grants = {"till": MINE}
    with open_answers(tmp_path, grants) as answers:
        cells = answers.cells
        # Of two conflicts the till has a part in, one is about a key it may write and not see.
        meet(
            cells,
            ("till", ("MSET", "c/stolen", "mine", "b/both", "mine")),
            ("barn", ("MSET", "c/stolen", "secret", "b/both", "theirs")),
        )
        for n in range(20):
            cells.ask("SET", [f"a/secret{n}", "secret"])
            cells.ask("SET", [f"b/open{n}", "open"])
        await trio.to_thread.run_sync(cells.commit)
        async with trio.open_nursery() as nursery:
            await nursery.start(answers.run)
            till = Asker(answers, "till")
            pull = Pull(
                epoch=1, token=1, keyspace=bytes(16), replica=1, base=0, after=0, made=0,
                knows_grants=True,
            )  # fmt: skip
            page = await till.ask(pull)
            assert (page.grant, page.payload) == (MINE, b"")  # first it has to know
            pull = msgspec.structs.replace(pull, grant=MINE, token=2)
            page = await till.ask(pull)
            pull = msgspec.structs.replace(
                pull, keyspace=page.keyspace, replica=page.replica, token=3
            )
            wishes = [b"", msgspec.msgpack.encode([(b"a/", True), (b"b", False), (b"", True)])]
            for nth, wish in enumerate(wishes, 4):
                for base in (0, 1):
                    await till.ask(
                        msgspec.structs.replace(
                            pull, token=10 * nth + base, payload=wish, base=base, after=0,
                            wants=(b"a/secret1", b"c/stolen", b"b/open1"), wants_digest=True,
                        )
                    )  # fmt: skip
            told = b"".join(map(bytes_of, till.heard))
            assert b"b/open1" in told
            assert b"secret" not in told
            assert b"c/stolen" not in told
            reports = [one for one in till.heard if isinstance(one, ConflictReport)]
            assert {one.count for one in reports} == {1}
            # The digest is of what it may see: what happens elsewhere does not change it.
            ask = msgspec.structs.replace(pull, token=100, wants_digest=True)
            before = (await till.ask(ask)).digest
            cells.ask("SET", ["a/secret0", "another"])
            await trio.to_thread.run_sync(cells.commit)
            assert (await till.ask(msgspec.structs.replace(ask, token=101))).digest == before
            nursery.cancel_scope.cancel()


async def test_an_edge_too_old_to_know_of_grants_is_told_nothing(tmp_path: Path) -> None:
    """It would take what it is not told of for gone, what it wrote itself too."""
    with open_answers(tmp_path, {"till": MINE}) as answers:
        async with trio.open_nursery() as nursery:
            await nursery.start(answers.run)
            till = Asker(answers, "till")
            pull = Pull(epoch=1, token=1, keyspace=bytes(16), replica=1, base=0, after=0, made=0)
            answers.ask(till._peer, pull, till._receiver, till._send)
            await until(lambda: bool(answers.too_old))
            assert answers.too_old == {"till"}
            assert till.heard == []
            await till.ask(msgspec.structs.replace(pull, knows_grants=True))
            assert not answers.too_old
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_grant_of_the_registry_reaches_a_hub_that_runs(tmp_path: Path) -> None:
    (tmp_path / "barn").mkdir()
    yard = Yard(tmp_path, "")
    yard.enrol("barn")
    async with served(yard.settings, yard.folder), yard.edge("barn") as barn:
        assert keys_of(barn) == []
        for prefixes in ((), ("a/", "b/"), ("b/",), ()):
            with closing(yard.registry()) as registry:
                registry.edges.grant("barn", prefixes)
            await until(lambda prefixes=prefixes: barn.status().granted == prefixes)  # type: ignore[misc]
            _, shown = await yard.ask("/api/v1/edges/barn")
            assert shown["link"]["prefixes"] == list(prefixes)
