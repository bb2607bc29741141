"""A real browser sees values change, on every page, and asks nobody but the hub."""

import time
from pathlib import Path

import pytest
import trio

from hubd.api.context import LinkEvent
from hubd.cells import Answers
from tests.browser.chromium import Browser
from tests.browser.conftest import serve
from tests.hubd.batches import Edge, Shelf
from tests.hubd.still import StillHub, an_edge

POWER = ("meter0", "ActivePower")
LEVEL = ("=tank", '"full" level')
SECOND = 10**9


class Site:
    """A hub that is being served, and an edge that can be told what to measure."""

    def __init__(self) -> None:
        self.url = ""
        self.hub = StillHub([an_edge("barn"), an_edge("shop", is_connected=False)])
        self.shelf = Shelf()
        self._edge = Edge("barn")
        self._edge.declare(POWER, "W")
        self._edge.declare(LEVEL, "%")

    def measure(self, value: float, name: tuple[str, str] = POWER, at_ns: int = 0) -> None:
        self._edge.readings(at_ns or time.time_ns(), {name: value})
        self.shelf.put(self._edge.entry(self.shelf.head + 1))
        self.hub.head = self.shelf.head

    def happen(self, kind: str, detail: str) -> None:
        self.hub.happened.append(
            LinkEvent(
                n=len(self.hub.happened) + 1, time_ns=time.time_ns(), edge="barn", kind=kind,
                detail=detail,
            )
        )  # fmt: skip


@pytest.fixture
async def site(tmp_path: Path, nursery: trio.Nursery, answers: Answers) -> Site:
    site = Site()
    site.measure(1111.0)
    site.url = await serve(site.hub, site.shelf, answers, tmp_path, nursery, trio.Event())
    return site


def shows(text: str) -> str:
    """An expression: whether the page shows the text, whatever kind its spaces are."""
    return f"document.body.innerText.replace(/\\s/g, ' ').includes('{text}')"


async def check(browser: Browser, site: Site) -> None:
    assert browser.console == []
    assert browser.requests
    assert [one for one in browser.requests if not one.startswith(site.url)] == []


async def test_the_fleet_shows_states_and_counts_live(site: Site, browser: Browser) -> None:
    await browser.open(site.url)
    await browser.until(shows("lost") + " && " + shows("1 of 2"))
    await browser.until("document.getElementById('pulse').textContent == 'live'")
    for value in (1.0, 2.0, 3.0):
        site.measure(value)
    row = "document.querySelector('#edge-barn [data-watch]').textContent"
    await browser.until(f"{row} == '4'")
    site.hub.all[0] = an_edge("barn", lag=7777)
    await browser.until(shows("7 777"))
    await check(browser, site)


async def test_an_edge_shows_a_value_change(site: Site, browser: Browser) -> None:
    await browser.open(site.url + "/edges/barn")
    cell = "document.querySelector('.values [data-watch]')"
    await browser.until(f"{cell} && {cell}.textContent == '1\\u202f111.0'")
    site.measure(2222.5)
    await browser.until(f"{cell}.textContent == '2\\u202f222.5'")
    assert await browser.evaluate(f"{cell}.classList.contains('changed')")
    await check(browser, site)


async def test_a_chart_draws_history_and_what_arrives(site: Site, browser: Browser) -> None:
    for value in range(10):
        site.measure(float(value))
    await browser.open(site.url + "/edges/barn/chart?entity=meter0&key=ActivePower")
    extent = "document.getElementById('extent').textContent"
    await browser.until("document.querySelector('#chart canvas') != null")
    await browser.until(f"{extent} == '11 points'")
    await browser.until("document.getElementById('pulse').textContent == 'live'")
    site.measure(4321.0)
    await browser.until("document.getElementById('value').textContent == '4\\u202f321'")
    await browser.until(f"{extent} == '12 points'")
    await browser.evaluate("document.querySelectorAll('.ranges button')[3].click()")
    pressed = "document.querySelector('.ranges [aria-pressed]').textContent"
    assert await browser.evaluate(pressed) == "24 h"
    await check(browser, site)


async def drag(browser: Browser, place: str, begin: float, end: float) -> None:
    """Draw the mouse over a part of an element, in shares of its width."""
    box = await browser.evaluate(
        f"(() => {{ const one = document.querySelector('{place}').getBoundingClientRect();"
        " return [one.left, one.width, one.top + one.height / 2]; })()"
    )
    left, width, y = box
    for kind, share in (
        ("mouseMoved", begin), ("mousePressed", begin), ("mouseMoved", end), ("mouseReleased", end),
    ):  # fmt: skip
        await browser.call(
            "Input.dispatchMouseEvent", type=kind, x=left + share * width, y=y, button="left",
            buttons=1, clickCount=1,
        )  # fmt: skip


async def test_a_chart_of_two_series_is_zoomed_and_kept_as_a_file(
    site: Site, browser: Browser
) -> None:
    now_ns = time.time_ns()
    for n in range(100):
        at_ns = now_ns - (100 - n) * SECOND
        site.measure(float(n), POWER, at_ns)
        site.measure(1000.0 + n, LEVEL, at_ns + SECOND // 2)
    await browser.look(1200, 800)
    with trio.fail_after(100):  # the page lists series as they are when it is opened
        while not await browser.evaluate("document.querySelector('.picker a.beside') != null"):
            await browser.open(site.url + "/edges/barn/chart?entity=meter0&key=ActivePower")
    extent = "document.getElementById('extent').textContent"
    await browser.until(f"{extent} == '101 points'")
    await browser.follow("document.querySelector('.picker a.beside').click()")
    await browser.until(f"{extent} == '201 points'")
    assert await browser.evaluate("document.querySelectorAll('.legend li').length") == 2
    await browser.until("document.getElementById('pulse').textContent == 'live'")
    site.measure(4321.0, LEVEL)
    await browser.until(f"{extent} == '202 points' && {shows('4 321')}")
    # A part of it: fewer points, and no range is pressed until one is again.
    await drag(browser, ".u-over", 0.3, 0.6)
    pressed = "document.querySelector('.ranges [aria-pressed]')"
    await browser.until(f"{pressed} == null && {extent} != '202 points'")
    closer = int(str(await browser.evaluate(extent)).split()[0])
    assert 40 <= closer <= 80
    site.measure(4322.0, LEVEL)  # beyond what is looked at
    await browser.evaluate(
        "URL.createObjectURL = (file) => { file.text().then((text) => { window.kept = text; });"
        " return 'blob:none'; }; HTMLAnchorElement.prototype.click = () => {};"
        "document.getElementById('csv').dispatchEvent(new Event('click'))"
    )
    kept = str(await browser.until("window.kept"))
    head, *rows, last = kept.split("\r\n")
    assert head == '"time UTC","meter0 ActivePower [W]","\'=tank ""full"" level [%]"'
    assert (len(rows), last) == (closer, "")
    for row in rows:
        at, power, level = row.split(",")
        assert at.endswith("Z")
        assert (power == "") != (level == "")
    await browser.evaluate("document.querySelector('.ranges button').click()")
    await browser.until(f"{extent} == '203 points'")
    # And out again.
    await browser.follow("location = document.querySelector('.picker a.beside').href")
    await browser.until(f"{extent} == '101 points' && !document.querySelector('.legend')")
    await check(browser, site)


async def test_link_events_appear(site: Site, browser: Browser) -> None:
    site.happen("connected", "session 1")
    await browser.open(site.url + "/events?edge=barn")
    await browser.until(shows("session 1"))
    site.happen("rewind", "<img src=x onerror=alert(1)>")
    await browser.until(shows("<img src=x onerror=alert(1)>"))
    await check(browser, site)


@pytest.mark.parametrize("is_dark", [False, True])
async def test_pages_fit_a_phone_in_both_colours(
    site: Site, browser: Browser, is_dark: bool
) -> None:
    await browser.look(390, 800, is_dark=is_dark)
    for path in (
        "/",
        "/edges/barn",
        "/events?edge=barn",
        "/alarms",
        "/conflicts",
        "/edges/barn/entity?entity=meter0",
    ):
        await browser.open(site.url + path)
        width = await browser.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, path
        ground = await browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(14, 20, 19)" if is_dark else "rgb(244, 246, 246)")
