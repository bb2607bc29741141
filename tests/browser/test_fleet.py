"""Two hundred edges on one page: a browser finds the worst, and nothing is shown that is not known.

The hub's link and presence are real; the edges are moved by hand, so that each is in the state the
test wants.
"""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from edgesync.model import EventType
from edgesync_transport.messages import Bye, Ping
from hubd.cells import Answers
from hubd.registry import RegisteredEdge
from tests.browser.chromium import Browser
from tests.browser.conftest import serve
from tests.hubd.batches import Edge, Shelf
from tests.hubd.links import Site, open_site

HEARTBEAT_S = 3.0
POWER = ("meter0", "ActivePower")
# 170 that are well, and 30 that are not here or lag behind.
STATES = {
    "lagging": 5, "stopped": 7, "lost": 5, "disconnected": 3, "invited": 4, "revoked": 6,
}  # fmt: skip
NAMES = {
    state: [f"{state}-{n:03}" for n in range(count)]
    for state, count in {"well": 170, **STATES}.items()
}


class Fleet:
    """The hub, its edges, and what they measure."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.url = ""
        self.shelf = Shelf()
        self.meters = {name: Edge(name) for name in NAMES["well"]}

    def register(self) -> None:
        self.site.presence.set_registered(
            [
                RegisteredEdge(
                    name=name, tenant="t", created_ns=time.time_ns(),
                    is_revoked=state == "revoked",
                    keys=() if state in ("invited", "revoked") else ("key",),
                )
                for state, names in NAMES.items()
                for name in names
            ]
        )  # fmt: skip

    def measure(self, value: float) -> None:
        for meter in self.meters.values():
            if not meter.tail:
                meter.declare(POWER, "W")
            meter.readings(time.time_ns(), {POWER: value})
            self.shelf.put(meter.entry(self.shelf.head + 1))

    async def connect(self) -> None:
        """Bring every edge into its state; those that are here keep saying so."""
        there = []
        for name in (*NAMES["well"], *NAMES["lagging"], *NAMES["stopped"], *NAMES["lost"]):
            edge = self.site.edge(name)
            await edge.greet(tail=9000 if name in NAMES["lagging"] else 0)
            if name in NAMES["stopped"]:
                await edge.link.send(Bye(epoch=edge.epoch, reason="stopping"))
            elif name not in NAMES["lost"]:
                there.append(edge)
        self.there = there

    async def keep_alive(self) -> None:
        while True:
            for edge in self.there:
                await edge.link.send(Ping(epoch=edge.epoch, token=1, at_ns=0))
            await trio.sleep(HEARTBEAT_S / 3)

    def states(self) -> list[str]:
        return [view.state for view in self.site.presence.edges()]


@pytest.fixture
async def fleet(tmp_path: Path, nursery: trio.Nursery, answers: Answers) -> AsyncIterator[Fleet]:
    async with open_site(tmp_path / "hub", heartbeat_s=HEARTBEAT_S) as site:
        fleet = Fleet(site)
        fleet.register()
        stop = trio.Event()
        fleet.url = await serve(site.presence, fleet.shelf, answers, tmp_path, nursery, stop)
        await fleet.connect()
        nursery.start_soon(fleet.keep_alive)
        with trio.fail_after(100):
            # They fall silent, nothing happens.
            while fleet.states().count("lost") < len(NAMES["lost"]):  # noqa: ASYNC110
                await trio.sleep(0.1)
        yield fleet
        stop.set()
        nursery.cancel_scope.cancel()


ROWS = "[...document.querySelectorAll('tbody tr')]"
STATES_SHOWN = f"{ROWS}.map(row => row.querySelector('.state').textContent)"


@pytest.mark.slow
async def test_the_worst_of_two_hundred_edges_come_first(fleet: Fleet, browser: Browser) -> None:
    await browser.open(fleet.url)
    sentence = await browser.evaluate("document.querySelector('.sentence').textContent")
    assert "20 of 200 edges need you" in sentence
    for reason in ("7 stopped", "5 lost", "5 behind", "3 not heard since this hub started"):
        assert reason in sentence
    shown = await browser.evaluate(STATES_SHOWN)
    assert len(shown) == 200
    assert set(shown[:10]) == {"draining", "lost"}
    assert set(shown[10:20]) == {"stopped", "disconnected"}
    assert set(shown[-10:]) == {"invited", "revoked"}

    # What the hub cannot know, it does not say: no lag of zero, no green, no age of zero.
    rows = await browser.evaluate(f"{ROWS}.map(row => row.innerText.replace(/\\s+/g, ' '))")
    for row in rows:
        if row.startswith(("lost", "stopped")):
            assert "last known 20" in row, row
        if row.startswith(("disconnected", "invited", "revoked")):
            assert "not known" in row, row
    greens = await browser.evaluate("document.querySelectorAll('.stale .state.good').length")
    assert greens == 0
    tiles = await browser.evaluate("document.querySelector('.tiles').innerText")
    assert "not known of 25 that are away" in tiles.replace("\u202f", " ")

    await browser.open(fleet.url + "/?q=well-12")
    assert await browser.evaluate(f"{ROWS}.length") == 10
    await browser.open(fleet.url + "/?state=revoked")
    assert await browser.evaluate(STATES_SHOWN) == ["revoked"] * 6
    await browser.open(fleet.url + "/?state=needs+you&sort=name")
    names = await browser.evaluate(f"{ROWS}.map(row => row.querySelector('a').textContent)")
    assert (len(names), names) == (20, sorted(names))
    await browser.follow(
        "document.querySelector('[name=q]').value = 'lost-003'; document.forms[0].submit()"
    )
    await browser.until(f"{ROWS}.length == 1 && {ROWS}[0].id == 'edge-lost-003'")

    await browser.open(fleet.url + "/edges/lost-001")
    text = await browser.evaluate("document.querySelector('main').innerText")
    assert "as it was last known" in text
    assert "all is here" not in text
    await browser.open(fleet.url + "/edges/disconnected-001")
    text = await browser.evaluate("document.querySelector('main').innerText")
    assert "has not been heard since this hub started" in text
    assert browser.console == []


@pytest.mark.slow
async def test_what_changed_is_sent_and_not_the_table(fleet: Fleet, browser: Browser) -> None:
    """All 170 measure every second; a phone is sent some bytes for each, and the page is right."""
    await browser.open(fleet.url + "/?sort=name")
    fleet.measure(0.0)
    count = "document.querySelector('[data-cell=\"well-007 readings\"]').textContent"
    await browser.until(f"{count} == '1'")
    first, *rest = await _heard(fleet, seconds=4)
    assert "<table" in first
    assert rest
    sizes = [len(event) for event in rest]
    assert max(sizes) < 10_000, sizes
    assert not any("<table" in event for event in rest)
    await browser.until(f"{count} == '5'")


async def _heard(fleet: Fleet, seconds: int) -> list[str]:
    """Return the events of the fleet's stream while every edge measures once a second."""
    host, port = fleet.url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    request = f"GET /ui/fleet?sort=name HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
    heard = b""

    async def measure() -> None:
        for value in range(seconds):
            await trio.sleep(1)
            fleet.measure(float(value))
        await trio.sleep(1.5)
        nursery.cancel_scope.cancel()

    async with stream, trio.open_nursery() as nursery:
        await stream.send_all(request.encode())
        nursery.start_soon(measure)
        while data := await stream.receive_some():
            heard += data
    events = [part for part in heard.decode().split("\n\n") if "data:" in part]
    return [part[part.index("data:") :] for part in events]


@pytest.mark.slow
async def test_devices_and_what_they_do_not_answer_are_on_the_page(
    fleet: Fleet, browser: Browser
) -> None:
    edge = fleet.meters["well-001"]
    told = {
        "meter0": {"state": "online", "address": "tcp://192.0.2.7:502/1"},
        "battery0": {"state": "offline", "reason": "no answer in 1 s"},
    }
    for name, body in told.items():
        edge.event(EventType.SOURCE, json.dumps(body).encode(), entity=name)
    missing = {"state": "online", "invalid": ["Voltage"], "reasons": {"Voltage": "refused"}}
    edge.event(EventType.SOURCE, json.dumps(missing).encode(), entity="meter0")
    report = {
        "what": "resources", "store_used_bytes": 5e8, "store_limit_bytes": 1e9, "rss_bytes": 4.2e7,
    }  # fmt: skip
    edge.event(EventType.LIFECYCLE, json.dumps(report, separators=(",", ":")).encode())
    fleet.shelf.put(edge.entry(fleet.shelf.head + 1))
    await browser.open(fleet.url + "/edges/well-001")
    await browser.until("document.querySelectorAll('#device-1').length == 1")
    rows = await browser.evaluate(
        "[...document.querySelectorAll('[id^=device]')].map(row => row.innerText)"
    )
    assert "battery0" in rows[0]
    assert "no answer in 1 s" in rows[0]
    assert "Voltage" in rows[1]
    assert "refused" in rows[1]
    text = await browser.evaluate("document.querySelector('main').innerText")
    assert "500 MB of 1 GB" in text
    # Events of all edges, by type.
    await browser.open(fleet.url + "/events?type=source")
    await browser.until("document.body.innerText.includes('no answer in 1 s')")
    assert browser.console == []


@pytest.mark.slow
async def test_every_page_fits_a_phone(fleet: Fleet, browser: Browser) -> None:
    fleet.measure(1.0)
    await browser.look(390, 844)
    chart = "/edges/well-001/chart?entity=meter0&key=ActivePower"
    edges = ("/edges/lost-001", "/edges/well-001", chart)
    paths = ("/", "/?state=revoked", *edges, "/events", "/api", "/conflicts", "/edges/nobody")
    for path in paths:
        await browser.open(fleet.url + path)
        with contextlib.suppress(AssertionError):
            await browser.until("document.getElementById('pulse') != null")
        wide = await browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, path
        over = await browser.evaluate(
            "[...document.querySelectorAll('main *')].filter(one => {"
            " const box = one.getBoundingClientRect(); return box.width && box.right > 391; })"
            ".map(one => one.outerHTML.slice(0, 80))"
        )
        assert over == [], path
    assert "no edge" in await browser.evaluate("document.querySelector('h1').textContent")
