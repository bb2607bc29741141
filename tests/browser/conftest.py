"""A browser, and the dashboard that it looks at."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from hubd.api import ApiSettings, Context, make_app
from hubd.api.context import Hub
from hubd.api.server import serve_http
from hubd.cells import Answers
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.state import open_state
from hubd.web import assets
from tests.browser.chromium import Browser, open_browser
from tests.hubd.batches import Shelf
from tests.hubd.keys import open_answers


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with open_browser(tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Answers]:
    with open_answers(tmp_path / "cells") as found:
        yield found


async def serve(
    hub: Hub, shelf: Shelf, answers: Answers, folder: Path, nursery: trio.Nursery, stop: trio.Event
) -> str:
    """Show the hub, with what its log has, until `stop`; returns the dashboard's address."""
    assets.fetch()
    live = Live()
    context = Context(
        hub=hub,
        state=open_state(folder / "state.db", shelf.generation),
        live=live,
        projectors=Projectors(live),
        answers=answers,
        settings=ApiSettings(port=0),
        version="0.1.0",
    )
    nursery.start_soon(run_projectors, shelf, context.state, context.projectors)
    url: str = await nursery.start(serve_http, make_app(context), context.settings, stop)
    return url
