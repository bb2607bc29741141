"""A device's attributes are edited, and its alarms acknowledged, in a browser; the edge obeys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hubd.api import ApiSettings, Context
from hubd.project import Live, Projectors
from hubd.state import State, open_state
from hubd.web import assets
from tests.browser.chromium import Browser
from tests.hubd.serving import serve
from tests.hubd.still import StillHub, an_edge
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("S8", "S11")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.db", b"g" * 16)
    yield state
    state.close()


def shows(text: str) -> str:
    return f"document.body.innerText.includes('{text}')"


def fill(selector: str, text: str) -> str:
    return f"document.querySelector('{selector}').value = '{text}'"


def click(selector: str) -> str:
    return f"document.querySelector('{selector}').click()"


async def test_a_device_is_edited_and_its_alarm_handled(
    tmp_path: Path, state: State, nursery: trio.Nursery, browser: Browser
) -> None:
    assets.fetch()
    sites = Sites(tmp_path)
    async with sites.node("barn") as node, sites.hub():
        entities = node.entities
        entities.set_attributes("device", "Scale 7", {"firmware": "<b>v1</b>"})
        raised = entities.raise_alarm("device", "Scale 7", "Too heavy", "CRITICAL",
                                      details={"kg": 900})  # fmt: skip
        await settle(node)
        live = Live()
        context = Context(
            hub=StillHub([an_edge("barn")]), state=state, live=live, projectors=Projectors(live),
            answers=sites.answers, settings=ApiSettings(),
        )  # fmt: skip
        url = await serve(context, nursery)
        await browser.open(url + "/edges/barn")
        await browser.until(f"{shows('Active alarms')} && {shows('Too heavy')}")
        await browser.follow(click("#held a"))
        await browser.until(shows("<b>v1</b>"))
        await browser.until("document.getElementById('pulse').textContent == 'live'")

        await browser.evaluate(fill("#name-shared", "limit"))
        await browser.evaluate(fill("#value-shared", "900"))
        await browser.follow(click("#scope-shared form.other button"))
        await browser.until(shows("limit"))
        await until(lambda: entities.attributes("device", "Scale 7", "shared") == {"limit": 900})
        await browser.evaluate(fill("#scope-shared input[name=value]", '{"a": [1]}'))
        await browser.follow(click("#scope-shared button[value=set]"))
        await until(
            lambda: entities.attributes("device", "Scale 7", "shared") == {"limit": {"a": [1]}}
        )

        await browser.follow(click("button[value=ack]"))
        await browser.until(f"{shows('active, acknowledged')} && {shows('by dashboard')}")
        await until(lambda: entities.alarm(raised.id).ack is not None)
        await browser.follow(click("button[value=clear]"))
        await browser.until(shows("cleared, acknowledged"))
        await until(lambda: not entities.alarm(raised.id).is_active)

        # While the page is looked at, what the edge does shows by itself.
        await browser.until("document.getElementById('pulse').textContent == 'live'")
        entities.raise_alarm("device", "Scale 7", "Too light", "WARNING")
        await browser.until(f"{shows('Too light')} && {shows('active, not acknowledged')}")

        await browser.follow(click("#scope-shared button[value=delete]"))
        await until(lambda: not entities.attributes("device", "Scale 7", "shared"))
