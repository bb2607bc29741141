"""A device's attributes are edited, and its alarms acknowledged, in a browser; the edge obeys."""

import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edgesync import Reading
from hubd import serve as serve_hub
from hubd.api import ApiSettings, Context
from hubd.project.live import Live
from hubd.project.projectors import Projectors
from hubd.state import State, open_state
from hubd.web import assets
from tests.browser.chromium import Browser
from tests.hubd.serving import serve
from tests.hubd.still import StillHub, an_edge
from tests.hubd.yard import Yard
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


@pytest.mark.slow
@pytest.mark.feature("S24")
async def test_a_device_is_called_and_its_readings_move(
    tmp_path: Path, nursery: trio.Nursery, browser: Browser
) -> None:
    assets.fetch()
    yard = Yard(tmp_path / "hub", "")
    (yard.folder / "barn").mkdir()
    yard.enrol("barn")
    stop = trio.Event()
    await nursery.start(functools.partial(serve_hub.run, yard.settings, yard.folder, stop=stop))
    async with yard.edge("barn") as node, node.part("rpc").serve("pump") as calls:
        await node.ingest([Reading("pump", "rpm", 1450.0, time.time_ns())])
        await yard.wait_for("/api/v1/edges/barn/latest", lambda one: "pump" in one["latest"])
        newest = "document.querySelector('#latest b').textContent.replace(/\\s/g, ' ')"
        await browser.look(390, 844)
        await browser.open(yard.url + "/edges/barn/entity?entity=pump")
        await browser.until(
            f"{shows('1 450')} && {shows('No calls yet')}".replace(" 450", "\u202f450")
        )
        await browser.until("document.getElementById('pulse').textContent == 'live'")
        assert await browser.evaluate("document.documentElement.scrollWidth") <= 390

        await browser.evaluate(fill("#call-method", "setSpeed"))
        await browser.evaluate(fill("#call-params", '{"rpm": 900}'))
        await browser.follow(click("#calls form.other button"))
        one = await anext(calls)
        assert (one.method, one.params) == ("setSpeed", {"rpm": 900})
        await browser.until(f"!{shows('answered')} && {shows('setSpeed')}")
        # While the page is looked at: the answer, and what the pump does.
        await one.answer({"rpm": 900, "note": "<b>slow"})
        await browser.until(f"{shows('answered')} && {shows('<b>slow')}")
        await node.ingest([Reading("pump", "rpm", 900.0, time.time_ns())])
        await browser.until(f"{newest} == '900.00'")
        assert await browser.evaluate("document.documentElement.scrollWidth") <= 390
        await browser.follow(click("#latest a"))
        await browser.until("document.querySelector('#chart canvas') != null")
    assert browser.console == []
    stop.set()


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
