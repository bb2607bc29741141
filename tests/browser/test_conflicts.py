"""Two edges wrote beside each other; a person sees it in a browser, decides, and the edges obey."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode
from hubd.api import ApiSettings, Context
from hubd.project.live import Live
from hubd.project.projectors import Projectors
from hubd.state import State, open_state
from hubd.web import assets
from tests.browser.chromium import Browser
from tests.hubd.serving import serve
from tests.hubd.still import StillHub
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("L3")

OPEN = "document.getElementById('conflicts-open').textContent"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.db", b"g" * 16)
    yield state
    state.close()


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    assets.fetch()
    return Sites(tmp_path)


async def dashboard(sites: Sites, state: State, nursery: trio.Nursery) -> str:
    """Serve the hub of these sites; returns the address of the page."""
    live = Live()
    context = Context(
        hub=StillHub([]), state=state, live=live, projectors=Projectors(live),
        answers=sites.answers, settings=ApiSettings(),
    )  # fmt: skip
    return await serve(context, nursery) + "/conflicts"


def shows(text: str) -> str:
    return f"document.body.innerText.includes('{text}')"


def click(selector: str) -> str:
    return f"document.querySelector('{selector}').click()"


async def both_have(a: EdgeNode, b: EdgeNode, value: bytes) -> None:
    await settle(a, b)
    assert a.hgetall("item") == b.hgetall("item") == {b"price": value}


async def test_a_conflict_appears_is_resolved_by_a_click_and_goes(
    sites: Sites, state: State, nursery: trio.Nursery, browser: Browser
) -> None:
    async with sites.node("barn") as a, sites.node("shop") as b, sites.hub() as hub:
        url = await dashboard(sites, state, nursery)
        await browser.open(url)
        await browser.until(shows("No open conflicts"))
        await browser.until("document.getElementById('pulse').textContent == 'live'")
        assert await browser.evaluate(OPEN) == ""

        # While the page is looked at: each writes before it has heard of the other.
        await both_write(sites, a, b, "10", "<img src=x onerror=alert(1)>")
        await browser.until(f"{shows('field price')} && {shows('two values')}")
        await browser.until(f"{OPEN} == '1'")
        await browser.until(f"{shows('barn')} && {shows('shop')}")
        assert await browser.evaluate(shows("<img src=x onerror=alert(1)>"))

        (one,) = hub.conflicts.find(status="open")
        (loser,) = one.losers
        assert loser.value is not None
        await browser.follow(click("tr:not(.winner) button[value=dot]"))
        await browser.until(f"{shows('No open conflicts')} && {OPEN} == ''")
        await both_have(a, b, loser.value)

        # Another value, typed while a further conflict makes the page change.
        await both_write(sites, a, b, "1", "2")
        await browser.until(shows("two values"))
        await browser.evaluate("document.querySelector('.other input').value = 'mine & yours'")
        a.set("other", "1")
        b.set("other", "2")
        await settle(a, b)
        await browser.until(f"{OPEN} == '2'")
        typed = "document.querySelector('.other input').value"
        assert await browser.evaluate(typed) == "mine & yours"
        await browser.follow(click(".other button"))
        await browser.until(f"{OPEN} == '1' && !{shows('field price')}")
        await both_have(a, b, b"mine & yours")

        # The winner of the last one stays; pressing a button of a page that is old says so.
        await browser.follow(click(".winner button"))
        await browser.until(shows("No open conflicts"))
        assert a.get("other") == b.get("other") == hub.ask("GET", ["other"])
        assert browser.console == []
        base = url.removesuffix("/conflicts")
        assert [one for one in browser.requests if not one.startswith(base)] == []
        await browser.follow(
            "(() => { const form = document.createElement('form'); form.method = 'post';"
            " form.action = '/conflicts/1'; form.innerHTML ="
            " '<input name=choice value=winner>'; document.body.append(form); form.submit(); })()"
        )
        await browser.until(shows("is resolved"))


async def both_write(sites: Sites, a: EdgeNode, b: EdgeNode, one: str, other: str) -> None:
    """Each writes the price before it has heard of the other; the hub hears both."""
    before = sites.cells.conflicts.detected
    a.hset("item", {"price": one})
    b.hset("item", {"price": other})
    await settle(a, b)
    await until(lambda: sites.cells.conflicts.detected > before)
