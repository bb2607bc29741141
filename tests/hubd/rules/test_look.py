"""When the hub sends a bundle, and when not: over both databases, by a clock of the test."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from edgesync._native import batch
from edgesync._native import event as event_codec
from edgesync.model import Action, EventType
from edgesync.rules.bundle import parse_piece
from edgesync.rules.defaults import default_chain
from edgesync_transport.lanes.events import Load, Loaded
from edgesync_transport.messages import Lane
from hubd.downlink import journal as journal_module
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import Journal
from hubd.registry import Registry, open_registry
from hubd.rules.bundles import Bundles
from hubd.rules.reports import Reports
from hubd.rules.service import AGAIN_MAX_S, AGAIN_S, RuleService
from hubd.state import State, open_state

pytestmark = pytest.mark.feature("S18")

SECOND = 10**9


class Site:
    def __init__(self, registry: Registry, state: State) -> None:
        self.now = 10**18
        self.registry = registry
        self.journal = Journal(registry.owned, clock_ns=lambda: self.now)
        self.bundles = Bundles(registry.owned, clock_ns=lambda: self.now)
        self.reports = Reports()
        self.service = RuleService(
            self.bundles, Delivery(self.journal), state, self.reports, clock_ns=lambda: self.now
        )

    def assign(self, name: str = "cold") -> str:
        text = default_chain().decode().replace("Edge Root", f"{name} Root")
        self.bundles.upload("default", name, {"a.json": text})
        return self.bundles.assign("default", name, ["barn"])[0].digest

    async def sent(self, after_s: float = 0) -> int:
        """Return how many records a look appends."""
        self.now += round(after_s * SECOND)
        before = self.tail
        await self.service.look()
        return self.tail - before

    @property
    def tail(self) -> int:
        lanes = self.journal.view("barn").lanes
        return lanes[Lane.NORMAL].tail if lanes else 0

    def arrive(self) -> None:
        self.journal.mark("barn", {Lane.NORMAL: self.tail})

    def tell(self, **facts: Any) -> None:
        body = msgspec.json.encode(facts)
        self.reports.apply("barn", EventType.RULES, Action.NONE, body, self.now)


@pytest.fixture
def site(tmp_path: Path, owned_url: sa.URL | None) -> Iterator[Site]:
    with (
        closing(open_registry(tmp_path, owned_url)) as registry,
        closing(open_state(tmp_path / "look.db", b"g" * 16)) as state,
    ):
        registry.enrolments.invite("barn", valid_s=900)
        yield Site(registry, state)


async def test_what_is_assigned_is_sent_once_and_again_ever_more_seldom(site: Site) -> None:
    assert await site.sent() == 0
    digest = site.assign()
    assert await site.sent() == 1
    loaded = site.journal.load("barn", Load(Lane.NORMAL, 1, 9, 9, 1 << 20))
    assert isinstance(loaded, Loaded)
    _, ((_, record),) = batch.columns(loaded.codec, loaded.payload)
    kind, _, _, _, body, *_ = event_codec.decode(record.body)
    assert (kind, parse_piece(body).digest) == (EventType.RULES, digest)
    assert await site.sent(after_s=86_400) == 0  # it waits for its edge
    site.arrive()
    assert await site.sent() == 1  # a day has passed, and the edge has told nothing
    pauses = []
    for _ in range(9):
        site.arrive()
        pause = AGAIN_S
        while not await site.sent(after_s=AGAIN_S):
            pause += AGAIN_S
        pauses.append(pause)
    assert pauses[:3] == [2 * AGAIN_S, 4 * AGAIN_S, 8 * AGAIN_S]
    assert pauses[-1] == AGAIN_MAX_S
    site.arrive()
    site.tell(held=digest, refused=["no"])
    assert await site.sent(after_s=86_400) == 0


async def test_what_an_edge_tells_decides(site: Site) -> None:
    first = site.assign("first")
    assert await site.sent() == 1
    site.arrive()
    site.tell(held=first, running=first, source="hub")
    second = site.assign("second")
    assert await site.sent() == 1
    site.arrive()
    site.tell(held=second, running=second, source="hub")
    assert await site.sent(after_s=86_400) == 0
    site.tell(held=first, running=first, source="hub")  # restored from an old copy
    assert await site.sent() == 1
    site.arrive()
    site.tell(held=second)
    site.bundles.unassign("default", ["barn"])
    assert await site.sent() == 1
    site.arrive()
    site.tell(held="")
    assert await site.sent(after_s=86_400) == 0
    site.tell(held=first)  # of a hub that is not restored this far
    assert await site.sent(after_s=60) == 1


async def test_an_edge_that_knows_no_chains_or_is_let_in_no_more_is_left_alone(site: Site) -> None:
    site.assign()
    assert await site.sent() == 1
    site.arrive()
    unknown = b'{"what":"downlink_unknown","type":17,"action":0}'
    site.reports.apply("barn", EventType.LIFECYCLE, 0, unknown, site.now)
    assert await site.sent(after_s=86_400) == 0
    site.reports.apply("barn", EventType.LIFECYCLE, 0, b'{"what":"started"}', site.now)
    assert await site.sent() == 1
    site.arrive()
    site.registry.edges.revoke("barn")
    assert await site.sent(after_s=86_400) == 0


async def test_a_bundle_that_is_removed_while_it_is_to_be_sent_ends_nothing(site: Site) -> None:
    site.assign()
    assigned, _ = site.service._read()
    site.bundles.unassign("default", ["barn"])
    site.bundles.remove("default", "cold")
    await site.service._send("barn", assigned["barn"])
    assert site.tail == 0


async def test_a_journal_without_room_is_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.assign()
    monkeypatch.setattr(journal_module, "RECORDS_MAX", 0)
    assert await site.sent() == 0
    monkeypatch.setattr(journal_module, "RECORDS_MAX", 10)
    assert await site.sent() == 1
