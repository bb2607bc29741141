"""Somebody looks for an event, pages, takes the file home, and gives up what an edge never took."""

import csv
import io
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from edgesync.model import Action, EventType
from hubd.api import ApiSettings, Context
from hubd.cells import Answers
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import Journal
from hubd.log.memory import MemoryLog
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.registry import Registry, open_registry
from hubd.rpc.calls import Calls, NewCall
from hubd.rpc.service import RpcService
from hubd.state import State, open_state
from hubd.web import assets
from tests.browser.chromium import Browser
from tests.hubd.batches import Edge, Shelf
from tests.hubd.serving import serve
from tests.hubd.still import StillHub, an_edge

pytestmark = [pytest.mark.feature("S10"), pytest.mark.slow]


class Site(NamedTuple):
    url: str
    shelf: Shelf
    edge: Edge
    calls: Calls


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with closing(open_registry(tmp_path)) as registry:
        registry.enrolments.invite("barn", valid_s=900)
        yield registry


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with closing(open_state(tmp_path / "state.db", b"g" * 16)) as state:
        yield state


@pytest.fixture
async def site(
    registry: Registry, state: State, answers: Answers, nursery: trio.Nursery
) -> Site:  # fmt: skip
    """150 events of doors and one of a pump, a dead letter, and a call that waits."""
    assets.fetch()
    shelf, edge = Shelf(), Edge("barn")
    for nth in range(150):
        body = b'{"open": %d}' % nth
        edge.event(EventType.ATTRIBUTES, body, entity=f"door{nth % 3}", action=int(Action.UPDATED))
    edge.event(EventType.ALARM, b'{"text": "<b>leaks</b>"}', entity="pump", time_ns=time.time_ns())
    shelf.put(edge.entry(1), edge.refused(2, b"nonsense", "not a record"))
    live = Live()
    journal = Journal(registry.owned)
    calls = Calls(registry.owned, journal)
    context = Context(
        hub=StillHub([an_edge("barn")]), state=state, live=live, projectors=Projectors(live),
        answers=answers, settings=ApiSettings(),
        rpc=RpcService(calls, Delivery(journal), MemoryLog(), lambda _edge: "default"),
    )  # fmt: skip
    call = NewCall(device="pump", method="stop", params=b"null", ttl_s=600)
    calls.send("default", "barn", call)
    nursery.start_soon(run_projectors, shelf, state, context.projectors)
    return Site(await serve(context, nursery), shelf, edge, calls)


ROWS = "[...document.querySelectorAll('tr[id^=event-]')]"
SUBMIT = "document.querySelector('form.filter').requestSubmit()"


def choose(field: str, value: str) -> str:
    return f"document.querySelector('form.filter [name={field}]').value = '{value}'"


async def fits(browser: Browser, width: int) -> bool:
    found: int = await browser.evaluate("document.documentElement.scrollWidth")
    return found <= width


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
async def test_events_are_found_paged_exported_and_given_up(
    site: Site, browser: Browser, width: int, height: int
) -> None:
    await browser.look(width, height)
    await browser.open(site.url + "/events")
    await browser.until(f"{ROWS}.length == 100")
    assert await fits(browser, width)
    text = await browser.evaluate("document.querySelector('main').innerText")
    assert "not a record" in text
    assert "edgesync queue --replay" in text
    assert "<b>leaks</b>" in text
    assert "stop" in await browser.evaluate("document.querySelector('#waiting').innerText")

    # The older ones, on pages.
    await browser.follow("document.querySelector('#older').click()")
    assert await browser.evaluate(f"{ROWS}.length") == 52
    assert await browser.evaluate("!document.querySelector('#older')")

    # By what a form offers, together; the address has it, and a page that came so keeps it.
    await browser.open(site.url + "/events")
    await browser.evaluate(choose("edge", "barn"))
    await browser.evaluate(choose("type", "attributes"))
    await browser.evaluate(choose("action", "updated"))
    await browser.evaluate(choose("status", "stored"))
    await browser.evaluate(choose("entity", "door1"))
    await browser.evaluate(choose("text", '"OPEN": 14'))
    await browser.follow(SUBMIT)
    await browser.until(f"{ROWS}.length == 3")
    assert await browser.evaluate("document.querySelector('[name=action]').value") == "updated"
    assert await fits(browser, width)

    # The file has what the page has, whatever the page showed of it.
    link = "[...document.querySelectorAll('.export a')].find(one => one.textContent == 'CSV').href"
    exported = await browser.evaluate(f"fetch({link}).then(answer => answer.text())")
    rows = list(csv.DictReader(io.StringIO(exported, newline="")))
    shown = await browser.evaluate(f"{ROWS}.map(row => row.id)")
    assert [f"event-{row['n']}" for row in rows] == shown
    assert {row["entity"] for row in rows} == {"door1"}

    # What comes while it is looked at, and fits, is there; what does not, is not.
    await browser.until("document.getElementById('pulse').textContent == 'live'")
    for entity in ("door1", "door2"):
        site.edge.event(
            EventType.ATTRIBUTES, b'{"open": 1499}', entity=entity, action=int(Action.UPDATED)
        )
    site.shelf.put(site.edge.entry(3))
    await browser.until(f"{ROWS}.length == 4")
    assert await browser.evaluate(f"!{ROWS}.some(row => row.innerText.includes('door2'))")

    # Nothing is claimed of what the edge has not said; it is given up by hand.
    waits = "document.querySelector('#waiting').innerText"
    assert "waits" in await browser.evaluate(waits)
    await browser.follow("document.querySelector('#waiting form button').click()")
    await browser.until(f"{waits}.includes('Nothing waits')")
    (given_up,) = site.calls.some(None, edge="barn")
    assert given_up.state == "EXPIRED"
    assert browser.console == []
    assert [one for one in browser.requests if not one.startswith(site.url)] == []


async def test_a_wrong_time_is_told(site: Site, browser: Browser) -> None:
    await browser.open(site.url + "/events")
    await browser.evaluate(choose("from", "yesterday"))
    await browser.follow(SUBMIT)
    text = await browser.evaluate("document.querySelector('main').innerText")
    assert "`from` is not a time" in text
    assert "-15m" in text
