"""A site that lets nobody out but through its proxy: joining, diagnosis and status."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.terminal import Terminal, open_terminal

pytestmark = pytest.mark.feature("K3", "S6", "S31")

PASSWORD = "s3cret/of:ana"
WRITTEN = "ana:s3cret%2Fof%3Aana"


class Beside:
    """A proxy in a process of its own."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        command = [sys.executable, "-m", "tests.faults.forward", scheme, "ana", PASSWORD]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._lines = self.process.stdout
        self.port = int(self._lines.readline())

    def url(self, credentials: str = "") -> str:
        return f"{self.scheme}://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}"

    def next_asked(self) -> str:
        return self._lines.readline().strip()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.close()


@contextmanager
def open_beside(scheme: str) -> Iterator[Beside]:
    beside = Beside(scheme)
    try:
        yield beside
    finally:
        beside.stop()


def failing(site: Terminal) -> tuple[str | None, str, str]:
    """Return the layer that fails, what was found of it, and the remedy."""
    found = site.run("edgesync", "doctor", "--json")
    assert "s3cret" not in found.stdout + found.stderr
    told = json.loads(found.stdout)
    layer = next((one for one in told["layers"] if one["layer"] == told["failing"]), None)
    return told["failing"], layer["found"] if layer else "", layer["remedy"] if layer else ""


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_an_edge_joins_and_is_diagnosed_through_a_proxy(tmp_path: Path, scheme: str) -> None:
    with open_terminal(tmp_path) as site, open_beside(scheme) as proxy:
        site.start_hub()
        hub = f"127.0.0.1 {site.link_port}"
        token = site.out("hubd", "enroll", "barn-7").strip()
        wrong = site.run("edgesync", "init", "--token", token, "--proxy", proxy.url("ana:wr0ng"))
        assert wrong.returncode
        assert "the proxy refuses to connect to the hub" in wrong.stderr
        assert "wr0ng" not in wrong.stderr
        assert not site.edge_config.exists()
        site.out("edgesync", "init", "--token", token, "--proxy", proxy.url(WRITTEN))
        assert proxy.next_asked() == hub
        assert failing(site)[0] is None
        assert {proxy.next_asked(), proxy.next_asked()} == {hub}  # the layer, and the handshake
        text = site.edge_config.read_text().replace("port = 9464", "port = 0")
        site.edge_config.write_text(text.replace(WRITTEN, "ana:wr0ng"))
        layer, found, remedy = failing(site)
        assert layer == "proxy"
        assert ("407 Proxy Authentication Required" if scheme == "http" else "password") in found
        assert "hub.proxy" in remedy
        site.edge_config.write_text(text)
        site.start_edge()
        site.until(lambda: site.json("edgesync", "status")["link"]["state"] == "Connected")
        assert f"through {proxy.url()}" in site.out("edgesync", "status")
        assert failing(site)[0] is None
        proxy.stop()
        gone = "the proxy cannot be reached"
        site.until(lambda: gone in site.json("edgesync", "status")["link"]["problem"])
        layer, found, remedy = failing(site)
        assert (layer, "the proxy running" in remedy) == ("TCP", True)
        said = site.out("edgesync", "status") + site.out("edgesync", "status", "--json")
        said += (tmp_path / "edgesync.log").read_text()
        assert "s3cret" not in said
