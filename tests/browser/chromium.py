"""A real Chromium, driven over the DevTools protocol through a pair of pipes.

Pipes instead of a port: nothing to find free, nothing another process could connect to, and when
the test dies the browser sees the end of its pipe and goes too.
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Headless shells in containers have neither a sandbox nor a GPU; every page here is ours.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
    "--remote-debugging-pipe",
)  # fmt: skip
# The protocol lives on descriptors 3 and 4. Ours are moved away first, they may be those two.
MOVE_PIPES = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class PageError(Exception):
    """The browser refused a command, or a script in the page threw."""


class Browser:
    """One page. `console` collects errors and warnings, `requests` every address asked for."""

    def __init__(self, send: trio.abc.SendStream) -> None:
        self._send = send
        self._ids = itertools.count(1)
        self._waiting: dict[int, trio.MemorySendChannel[dict[str, Any]]] = {}
        self._session = ""
        self._loaded = trio.Event()
        self.console: list[str] = []
        self.requests: list[str] = []

    async def open(self, url: str) -> None:
        """Go there and wait until all of the page is loaded."""
        self._loaded = trio.Event()
        await self.call("Page.navigate", url=url)
        with trio.fail_after(100):
            await self._loaded.wait()

    async def follow(self, script: str) -> None:
        """Do what leads to another page, such as a click, and wait until all of it is loaded."""
        self._loaded = trio.Event()
        await self.evaluate(script)
        with trio.fail_after(100):
            await self._loaded.wait()

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise PageError(answer["exceptionDetails"].get("exception", {}).get("description"))
        return answer["result"].get("value")

    async def until(self, script: str, limit_s: float = 20) -> Any:
        """Wait until the expression is true of a page that is loaded, and return it.

        Raises PageError after the limit. A page may have its new address and nothing in it yet, and
        one that is being left may end the question.
        """
        said = ""
        with trio.move_on_after(limit_s):
            while True:
                try:
                    value = await self.evaluate(f"document.readyState == 'complete' && ({script})")
                except PageError as error:
                    said = f": {error}"
                else:
                    if value:
                        return value
                await trio.sleep(0.05)
        raise PageError(f"never came true: {script}{said}")

    async def look(self, width: int, height: int, *, is_dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        """The visible page as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        sender, receiver = trio.open_memory_channel[dict[str, Any]](1)
        self._waiting[number] = sender
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        await self._send.send_all(json.dumps(message).encode() + b"\0")
        answer = await receiver.receive()
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def attach(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        answer = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = answer["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")

    async def aclose(self) -> None:
        await self._send.aclose()

    async def listen(self, receive: trio.abc.ReceiveStream) -> None:
        buffer = b""
        async for chunk in receive:
            *messages, buffer = (buffer + chunk).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if waiting := self._waiting.pop(message.get("id", 0), None):
            waiting.send_nowait(message)
            return
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded.set()
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"].get("exception")))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.console.append(f"{params['entry']['text']} {params['entry'].get('url')}")
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.console.append(" ".join(str(a.get("value")) for a in params["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@asynccontextmanager
async def open_browser(profile: Path) -> AsyncIterator[Browser]:
    """Start Chromium with an empty profile and yield its page."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, "no Chromium: apt install chromium"
    to_browser, from_us = os.pipe()
    to_us, from_browser = os.pipe()
    ends = (to_browser, from_browser)
    command = [sys.executable, "-c", MOVE_PIPES, *map(str, ends), program, *FLAGS]
    process = await trio.lowlevel.open_process(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    browser = Browser(trio.lowlevel.FdStream(from_us))
    try:
        async with trio.lowlevel.FdStream(to_us) as receive, trio.open_nursery() as nursery:
            nursery.start_soon(browser.listen, receive)
            await browser.attach()
            yield browser
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await browser.aclose()
