"""The demonstration as a visitor runs it."""

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import trio

from edgesync.demo import tour
from edgesync.demo.pump import Pump
from edgesync.demo.run import Line, open_demo
from edgesync.demo.site import EDGE, Site, free_ports
from tests.browser.chromium import open_browser

COMMAND = [sys.executable, "-m", "edgesync", "demo"]


async def until_served(url: str) -> None:
    """Wait until somebody answers there."""
    with trio.fail_after(60):
        while True:
            with contextlib.suppress(OSError):
                (await trio.to_thread.run_sync(urllib.request.urlopen, url)).close()
                return
            await trio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.feature("K6")
def test_chaos_ends_with_an_equal_ledger(tmp_path: Path) -> None:
    chaos = ["--chaos", "--seconds", "14", "--seed", "3", "--every", "200ms", "--json"]
    folder = ["--folder", str(tmp_path), "--port", "0"]
    done = subprocess.run([*COMMAND, *chaos, *folder], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["findings"] == []
    assert verdict["strikes"]
    assert verdict["log_records"] == verdict["journal_records"] > 0
    assert verdict["state_readings"] == verdict["journal_readings"] >= verdict["witnessed"] > 0


@pytest.mark.slow
@pytest.mark.feature("K6", "S26")
async def test_a_browser_sees_the_simulated_meter_change(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with (tmp_path / "demo.log").open("wb") as log:
        demo = await trio.lowlevel.open_process(
            [*COMMAND, "--port", str(port)], stdout=log, stderr=log
        )
    try:
        async with open_browser(tmp_path / "profile") as browser:
            url = f"http://127.0.0.1:{port}"
            await until_served(url + "/healthz")
            await browser.open(url)
            link = "document.querySelector('a[href=\"/edges/demo\"]')"
            await browser.until(f"{link} != null", limit_s=60)
            await browser.evaluate(f"{link}.click()")
            cells = "[...document.querySelectorAll('.values [data-watch]')]"
            text = f"{cells}.map(one => one.textContent).join(' ')"
            await browser.until(f"{cells}.length > 20", limit_s=60)
            before = await browser.evaluate(text)
            await browser.until(f"{text} != {json.dumps(before)}")
            assert browser.console == []
    finally:
        demo.send_signal(signal.SIGINT)
        with trio.fail_after(100):
            assert await demo.wait() == 0, (tmp_path / "demo.log").read_text()


@pytest.mark.slow
@pytest.mark.feature("K6", "S24", "S29")
async def test_the_tour_shows_a_device_an_alarm_and_a_command_and_the_ledger_is_equal(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    lines: list[Line] = []
    async with open_demo(lines.append, folder=tmp_path, every="500ms", mqtt_port=port) as demo:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(demo.watch)
            nursery.start_soon(partial(demo.show_devices, port, pause_s=0.1))
            with trio.fail_after(200):
                while not demo.said or "ANSWERED" not in demo.said[-1]:
                    assert not any("the tour ends" in text for text in demo.said), demo.said
                    await trio.sleep(0.1)
            assert demo.pump is not None
            assert (demo.pump.rpm, demo.pump.acknowledged > 0) == (900, True)
            nursery.cancel_scope.cancel()
        assert [text.split()[0] for text in demo.said] == [
            "pump-1", "alarm", "hubd", "cable", "QUEUED:", "cable",
        ]  # fmt: skip
        assert "1450 rpm" in demo.said[4]
        alarms = json.loads(await demo.site.hubd("alarms", EDGE, "--json"))
        assert [(one["type"], one["status"]) for one in alarms] == [
            ("HighTemperature", "CLEARED_UNACK")
        ]
        verdict = await demo.compare(0, 0.0)
        assert verdict.findings == []
        assert verdict.state_readings > verdict.witnessed > 0
    assert lines[-1].said


async def test_a_tour_that_cannot_go_on_says_so_and_plugs_the_cable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tour, "PATIENCE_S", 0.5)
    said: list[str] = []

    class Nowhere:
        def __init__(self) -> None:
            self.cable = self
            self.is_plugged = False

        def plug(self) -> None:
            self.is_plugged = True

        async def hubd(self, *_command: str) -> str:
            await trio.lowlevel.checkpoint()
            return "[]"

    site = Nowhere()
    await tour.run(cast("Site", site), Pump(), said.append, pause_s=0.0)
    assert said[-1].startswith("the tour ends: the alarm at the hub did not come")
    assert site.is_plugged
