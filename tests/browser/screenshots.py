"""Takes the pictures of docs/dashboard.md: `make screenshots`.

The site is the demonstration's, with its alarm and its waiting command; two more gateways write one
key beside each other, one runs chains that the hub assigned, one was never started.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import trio

from edgesync import EdgeNode, Reading
from edgesync.demo.pump import HOT_C, NAME, Pump
from edgesync.demo.run import open_demo
from edgesync.demo.site import EDGE, Site, free_ports
from edgesync.model import series_id
from edgesync.rules.defaults import default_chain
from hubd.web import assets
from tests.browser.chromium import Browser, open_browser

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
DESKTOP: Final = (1200, 800)
PHONE: Final = (390, 844)
PASSWORD: Final = "pictures-of-a-demo"
# Of a chart, something to see.
MEASURED_S: Final = 40.0


@contextlib.asynccontextmanager
async def gateway(site: Site, name: str) -> AsyncIterator[EdgeNode]:
    """Enrol one more gateway and run it in this process."""
    token = json.loads(await site.hubd("enroll", name, "--json"))["token"]
    config = site.folder / name / "edge.toml"
    command = [sys.executable, "-m", "edgesync", "--config", str(config), "init", "--token", token]
    await trio.run_process(command, capture_stdout=True)
    async with EdgeNode(config) as node:
        yield node


async def measure(node: EdgeNode, entity: str) -> None:
    for tick in range(1 << 30):
        await node.ingest([Reading(entity, "level", 40.0 + tick % 20, time.time_ns())])
        await trio.sleep(0.5)


class Photographer:
    """Opens pages of one hub and keeps what they look like."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url

    async def take(self, name: str, path: str, shows: str) -> None:
        """Keep the page at `path` as docs/images/NAME.png, once it says `shows`."""
        await self._browser.open(self._url + path)
        await self._browser.until(
            f"document.body.innerText.replace(/\\s+/g, ' ').includes({json.dumps(shows)})", 60
        )
        await self._browser.until("!document.querySelector('#pulse.connecting')")
        await trio.sleep(0.5)  # what is drawn after its text: charts
        (IMAGES / f"{name}.png").write_bytes(await self._browser.screenshot())
        print(f"docs/images/{name}.png")

    async def type(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            field = f"document.querySelector('[name={name}]')"
            await self._browser.evaluate(f"{field}.value = {json.dumps(value)}")

    async def look(self, size: tuple[int, int]) -> None:
        await self._browser.look(*size)

    async def press(self, selector: str) -> None:
        await self._browser.follow(f"document.querySelector({json.dumps(selector)}).click()")


async def until_listed(site: Site, *command: str) -> None:
    with trio.fail_after(120):
        while not json.loads(await site.hubd(*command, "--json")):  # noqa: ASYNC110
            await trio.sleep(0.2)


async def run(folder: Path) -> None:
    assets.fetch()
    IMAGES.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    async with contextlib.AsyncExitStack() as stack:
        demo = await stack.enter_async_context(
            open_demo(lambda _line: None, folder=folder, every="500ms", mqtt_port=port)
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        site, pump = demo.site, Pump()
        nursery.start_soon(pump.run, port)
        shop, barn = [
            await stack.enter_async_context(gateway(site, name)) for name in ("shop-12", "barn-7")
        ]
        nursery.start_soon(partial(measure, barn, "silo"))
        await site.hubd("enroll", "shop-13")
        (folder / "chain.json").write_bytes(default_chain())
        await site.hubd("rules", "upload", str(folder / "chain.json"), "--name", "cold-room")
        await site.hubd("rules", "assign", "cold-room", "barn-7")
        shop.set("price:milk", "1.19")
        barn.set("price:milk", "1.29")
        pump.temperature_c = HOT_C
        await until_listed(site, "alarms", EDGE, "--active")
        await site.hubd("rpc", "send", EDGE, NAME, "setSpeed", '{"rpm": 900}', "--wait", "10")
        await site.hubd("attributes", EDGE, NAME, "limit_c=80", "--scope", "shared")

        browser = await stack.enter_async_context(open_browser(folder / "profile"))
        photographer = Photographer(browser, site.url)
        await trio.sleep(MEASURED_S)
        await pages(photographer)
        user = [sys.executable, "-m", "hubd", "--config", str(site.hub_config), "users", "add"]
        await trio.run_process([*user, "ann", "--role", "admin"], stdin=PASSWORD.encode())
        await trio.sleep(2.0)
        await photographer.take("login", "/login", "Password")
        await photographer.type({"name": "ann", "password": PASSWORD})
        await photographer.press("form button")
        await photographer.take("account", "/account", "ann")
        nursery.cancel_scope.cancel()


async def pages(photographer: Photographer) -> None:
    entity = f"/edges/{EDGE}/entity?entity={NAME}"
    await photographer.look(DESKTOP)
    await photographer.take("fleet", "/", "barn-7")
    await photographer.take("edge", f"/edges/{EDGE}", "battery0")
    await photographer.take("entity", entity, "HighTemperature")
    others = [("meter0", "ActivePower"), ("pv0", "ModuleTemperature")]
    beside = "".join(f"&beside={series_id(*name):016x}" for name in others)
    chart = f"/edges/{EDGE}/chart?entity=pv0&key=ActivePower{beside}"
    await photographer.take("chart", chart, "meter0 ActivePower")
    await photographer.take("events", "/events", EDGE)
    await photographer.take("alarms", "/alarms", "HighTemperature")
    await photographer.take("rules", "/rules", "cold-room")
    await photographer.take("edge-rules", "/edges/barn-7/rules", "running")
    await photographer.take("conflicts", "/conflicts", "price:milk")
    await photographer.take("api", "/api", "/api/v1/edges")
    await photographer.look(PHONE)
    await photographer.take("fleet-phone", "/", "barn-7")
    await photographer.take("entity-phone", entity, "HighTemperature")
    await photographer.look(DESKTOP)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(run, Path(folder))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}: {error.stderr}")
