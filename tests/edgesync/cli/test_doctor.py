"""`edgesync doctor` names the layer that fails, each of them made to fail for real."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgesync.cli import doctor as doctor_module
from edgesync_transport.keys import new_key_pair
from tests.terminal import Terminal, open_terminal

pytestmark = pytest.mark.feature("S31")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A hub, and the settings of an edge that has joined it."""
    with open_terminal(tmp_path_factory.mktemp("site")) as found:
        found.start_hub()
        found.enrol()
        yield found


@pytest.fixture
def settings(site: Terminal) -> Iterator[str]:
    """The settings of the edge, put back afterwards."""
    text = site.edge_config.read_text()
    yield text
    site.edge_config.write_text(text)


def asked(site: Terminal) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """Return which layer fails, and what was found of each."""
    done = site.run("edgesync", "doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == (69 if found["failing"] else 0), done
    return found["failing"], {one["layer"]: one for one in found["layers"]}


def pointed(site: Terminal, settings: str, endpoint: str) -> None:
    site.edge_config.write_text(re.sub(r"tcp://127\.0\.0\.1:\d+", endpoint, settings, count=1))


def test_nothing_fails_with_the_daemon_and_without(site: Terminal) -> None:
    failing, layers = asked(site)
    assert failing is None
    assert list(layers) == [
        "settings", "disk", "store", "clock", "DNS", "TCP", "CURVE", "credentials", "session",
    ]  # fmt: skip
    assert layers["session"]["verdict"] == "unknown"
    edge = site.start_edge()
    site.until(lambda: site.json("edgesync", "status")["link"]["state"] == "Connected")
    failing, layers = asked(site)
    assert (failing, layers["session"]["verdict"]) == (None, "good")
    assert layers["clock"]["verdict"] == "good"
    assert "nothing fails" in site.out("edgesync", "doctor")
    site.stop(edge)


def test_a_name_that_does_not_resolve(site: Terminal, settings: str) -> None:
    pointed(site, settings, "tcp://hub.invalid:7400")
    failing, layers = asked(site)
    assert failing == "DNS"
    assert "TCP" not in layers
    assert "hub.endpoint" in layers["DNS"]["remedy"]


def test_nobody_listens(site: Terminal, settings: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    pointed(site, settings, f"tcp://127.0.0.1:{port}")
    failing, layers = asked(site)
    assert failing == "TCP"
    assert "refused" in layers["TCP"]["found"]
    assert "running" in layers["TCP"]["remedy"]


def test_packets_vanish(site: Terminal, settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "CONNECT_S", 0.5)
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for one in (first, second):  # the queue is full: the kernel answers nobody any more
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
        pointed(site, settings, f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        failing, layers = asked(site)
    assert failing == "TCP"
    assert "firewall" in layers["TCP"]["remedy"]


def test_something_else_listens(
    site: Terminal, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_module, "HANDSHAKE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pointed(site, settings, f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        failing, layers = asked(site)
    assert failing == "CURVE"
    assert "does not answer as a hub" in layers["CURVE"]["found"]


def test_the_hub_has_another_key(site: Terminal, settings: str) -> None:
    other = f"server_key = '{new_key_pair().public}'"
    site.edge_config.write_text(re.sub(r"server_key = .*", lambda _: other, settings))
    failing, layers = asked(site)
    assert failing == "CURVE"
    assert "another server key" in layers["CURVE"]["found"]


def test_an_edge_that_was_revoked(site: Terminal, settings: str) -> None:
    site.out("hubd", "revoke", "barn-7")
    site.until(lambda: asked(site)[0] == "credentials")
    _, layers = asked(site)
    assert layers["CURVE"]["verdict"] == "good"
    assert "hubd enroll" in layers["credentials"]["remedy"]
    said = site.run("edgesync", "doctor")
    assert "credentials fails" in said.stdout
    token = site.out("hubd", "enroll", "barn-7", "--again").strip()
    site.out("edgesync", "init", "--token", token, "--new-key")
    site.until(lambda: asked(site)[0] is None)


def test_keys_that_are_missing(site: Terminal) -> None:
    keys = site.edge_config.parent / "edge.keys"
    aside = keys.rename(keys.with_suffix(".aside"))
    try:
        failing, layers = asked(site)
    finally:
        aside.rename(keys)
    assert failing == "credentials"
    assert "hubd enroll" in layers["credentials"]["found"]


@pytest.mark.parametrize(
    ("text", "failing", "said"),
    [
        ('[edge]\nname = "barn"\n', None, "everything is kept here"),
        ('[edge]\nfoo = "barn"\n', "settings", "edge.foo"),
        ('[edge]\nname = "barn"\ndata_dir = "/proc/nowhere"\n', "disk", "cannot be written"),
        ('[edge]\nname = "barn"\n[store]\nlimit = "1000 TiB"\n', None, "store.limit"),
        ("[mqtt]\nport = 1883\n", None, "[[device]] with a token; docs/mqtt.md"),
        ('[[modbus]]\nname = "a"\nhost = "h"\nprofile = "no.toml"\n', "settings", "no.toml"),
    ],
)
def test_without_a_hub(tmp_path: Path, text: str, failing: str | None, said: str) -> None:
    with open_terminal(tmp_path) as alone:
        alone.edge_config.parent.mkdir()
        alone.edge_config.write_text(text)
        found, layers = asked(alone)
    assert found == failing
    assert said in json.dumps(layers)


def test_a_store_that_is_damaged(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as alone:
        alone.edge_config.parent.mkdir()
        alone.edge_config.write_text('[edge]\nname = "barn"\n')
        edge = alone.start_edge()
        alone.stop(edge)
        (data,) = alone.edge_config.parent.rglob("data.mdb")
        data.write_bytes(b"\0" * data.stat().st_size)
        failing, layers = asked(alone)
    assert failing == "store"
    assert "operations.md" in layers["store"]["remedy"]
