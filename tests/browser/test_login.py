"""Somebody logs in with a browser, sees what their role shows, and is led back when it is over."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from edgesync.entities.alarms import Severity, plan_raise
from edgesync.entities.model import entity
from edgesync.entities.view import SpaceView
from hubd.api import ApiSettings, Context
from hubd.api.logins import Logins
from hubd.cells import Answers
from hubd.project.live import Live
from hubd.project.projectors import Projectors
from hubd.registry import Registry, Role, open_registry
from hubd.state import State, open_state
from hubd.web import assets
from tests.browser.chromium import Browser
from tests.hubd.logins import PASSWORD, logins_of, make_user
from tests.hubd.serving import serve
from tests.hubd.still import StillHub, an_edge

pytestmark = [pytest.mark.feature("C14"), pytest.mark.slow]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with closing(open_registry(tmp_path)) as registry:
        yield registry


@pytest.fixture
def logins(registry: Registry) -> Logins:
    return logins_of(registry)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with closing(open_state(tmp_path / "state.db", b"g" * 16)) as state:
        yield state


@pytest.fixture
async def url(
    state: State, logins: Logins, answers: Answers, nursery: trio.Nursery
) -> str:  # fmt: skip
    assets.fetch()
    raised = plan_raise(
        SpaceView(answers.cells.space, answers.cells.now_ms), entity("barn", "device", "Scale"),
        "Too heavy", Severity.MAJOR, answers.cells.now_ms(),
    )  # fmt: skip
    answers.cells.run_all(raised)
    await nursery.start(answers.run)
    live = Live()
    context = Context(
        hub=StillHub([an_edge("barn")]), state=state, live=live, projectors=Projectors(live),
        answers=answers, settings=ApiSettings(), logins=logins,
    )  # fmt: skip
    return await serve(context, nursery)


def shows(text: str) -> str:
    return f"document.body.innerText.includes('{text}')"


async def fill_in(browser: Browser, name: str, password: str) -> None:
    for field, text in (("name", name), ("password", password)):
        await browser.evaluate(f"document.querySelector('[name={field}]').value = '{text}'")
    await browser.follow("document.querySelector('.login button').click()")


@pytest.mark.parametrize("width", [1400, 390])
async def test_somebody_logs_in_acts_and_logs_out(
    registry: Registry, logins: Logins, url: str, browser: Browser, width: int
) -> None:
    await browser.look(width, 900)
    make_user(registry, logins, "joe", Role.OPERATOR, tenant=None, sites=["barn"])
    await browser.open(url + "/alarms")
    await browser.until("location.pathname == '/login'")
    assert not await browser.evaluate("!!document.querySelector('nav')")
    await fill_in(browser, "joe", "wrong horse")
    await browser.until(shows("no such name and password"))
    await fill_in(browser, "joe", PASSWORD)
    await browser.until(f"location.pathname == '/alarms' && {shows('Too heavy')}")
    await browser.until("document.getElementById('pulse').textContent == 'live'")
    assert await browser.evaluate("document.cookie") == ""
    await browser.follow("document.querySelector('button[value=ack]').click()")
    await browser.until(shows("acknowledged by joe"))

    await browser.open(url + "/account")
    assert await browser.evaluate("document.documentElement.scrollWidth") <= width
    values = {"old": PASSWORD, "new": "another horse", "again": "another horse"}
    for field, text in values.items():
        await browser.evaluate(f"document.querySelector('[name={field}]').value = '{text}'")
    await browser.follow("document.querySelectorAll('.login button')[1].click()")
    await browser.until(shows("The password is changed"))
    await browser.follow("document.querySelector('form[action=\"/logout\"] button').click()")
    await browser.until("location.pathname == '/login'")
    # 401 is in the console of the attempt with the wrong password.
    assert [line for line in browser.console if "401" not in line] == []
    assert [one for one in browser.requests if not one.startswith(url)] == []


async def test_a_page_whose_session_ended_asks_for_the_password(
    registry: Registry, logins: Logins, url: str, browser: Browser
) -> None:
    """It does not say that the hub is out of reach, which it is not."""
    make_user(registry, logins, "ana", tenant=None)
    make_user(registry, logins, "bob", tenant=None)
    await browser.open(url + "/?sort=name")
    await fill_in(browser, "ana", PASSWORD)
    await browser.until("document.getElementById('pulse').textContent == 'live'")
    registry.users.remove("ana")
    await logins.refresh()
    await browser.until("location.pathname == '/login'", limit_s=60)
    await fill_in(browser, "bob", PASSWORD)
    await browser.until("location.pathname + location.search == '/?sort=name'")
