"""Rule chains of an edge in a real browser: drawn, counted as readings come, tried out."""

import contextlib
import functools
import time
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode, Reading
from edgesync.rules import assigned as assigned_module
from hubd import serve
from hubd.rules import service as service_module
from hubd.rules.bundles import Bundles
from hubd.web import assets
from tests.browser.chromium import Browser
from tests.edgesync.rules.chains import Node, exported
from tests.hubd.yard import Yard

pytestmark = [pytest.mark.feature("S18"), pytest.mark.slow]

NODES: list[Node] = [
    ("filter.TbJsFilterNode", "Warmer than 5", {"jsScript": "return msg.t > 5;"}),
    ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0}),
    ("edge.TbMsgPushToCloudNode", "Push", {"scope": "SERVER_SCOPE"}),
    ("transform.TbTransformMsgNode", "Fails",
     {"jsScript": "return {msg: msg.a.b.c, metadata, msgType};"}),
]  # fmt: skip
WIRES = [(0, 1, "True"), (1, 2, "Success"), (0, 3, "False")]


def shows(text: str) -> str:
    return f"document.body.innerText.replace(/\\s/g, ' ').includes('{text}')"


def count_of(node: str) -> str:
    return (
        "[...document.querySelectorAll('.graph g')].find(one => "
        f"one.querySelector('.name').textContent == '{node}').querySelector('.count').textContent"
    )


async def test_chains_are_drawn_counted_and_tried_out(
    tmp_path: Path, nursery: trio.Nursery, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets.fetch()
    monkeypatch.setattr(assigned_module, "TOLD_EVERY_S", 0.2)
    monkeypatch.setattr(service_module, "TICK_S", 0.1)
    yard = Yard(tmp_path / "hub", "")
    (yard.folder / "barn").mkdir()
    yard.enrol("barn")
    stop = trio.Event()
    await nursery.start(functools.partial(serve.run, yard.settings, yard.folder, stop=stop))
    hub = {"endpoint": yard.settings.hub.listen[0], "server_key": yard.server_key}
    table = {"edge": {"name": "barn"}, "hub": hub}
    async with EdgeNode(table, folder=yard.folder / "barn") as node:
        with contextlib.closing(yard.registry()) as registry:
            bundles = Bundles(registry.owned)
            bundles.upload("default", "cold", {"a.json": exported(NODES, WIRES).decode()})
            await browser.open(yard.url + "/edges/barn/rules")
            await browser.until(shows("everything is stored and sent"))
            await browser.follow("document.querySelector('button[value=assign]').click()")
        await browser.until("document.querySelector('.state').textContent == 'running'")
        assert await browser.evaluate("document.querySelectorAll('.graph g').length") == 4
        for value in (7.0, 8.0, 2.0):
            await node.ingest([Reading("tank", "t", value, time.time_ns())])
        await browser.until(f"{count_of('Warmer than 5')} == '3'")
        await browser.until(f"{count_of('Fails')}.includes('1 failed')")
        await browser.until(shows("Nodes that failed"))
        await yard.wait_for("/api/v1/edges/barn/latest", lambda one: "tank" in one["latest"])
        # Tried out with the newest readings, which are those that were pushed.
        await browser.evaluate("document.querySelector('[name=entity]').value = 'tank'")
        await browser.follow("document.querySelector('button[value=run]').click()")
        await browser.until(shows('cold 1 with {"t":8') + " || " + shows('cold 1 with {"t": 8'))
        await browser.until(shows("SaveReadings"))
        for is_dark in (False, True):
            await browser.look(390, 844, is_dark=is_dark)
            await browser.open(yard.url + "/edges/barn/rules")
            await browser.until("document.querySelector('.graph') != null")
            assert await browser.evaluate("document.documentElement.scrollWidth") <= 390
            await browser.open(yard.url + "/rules")
            await browser.until(shows("cold 1"))
            assert await browser.evaluate("document.documentElement.scrollWidth") <= 390
        assert browser.console == []
        stop.set()
