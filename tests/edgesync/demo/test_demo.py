"""The demonstration as a visitor runs it."""

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import trio

from edgesync.demo.site import free_ports
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
