"""A hub and an edge with few descriptors and more peers than that, as processes."""

import contextlib
import json
import resource
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from edgesync.demo.site import free_ports
from edgesync_transport.keys import read_keys
from tests.terminal import Terminal

pytestmark = pytest.mark.feature("F24")

PARTIAL = (
    b"POST /api/v1/enroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\n\r\n{"
)


class Narrow(Terminal):
    """A terminal whose next process has few descriptors, hard and soft."""

    descriptors = 0

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        few = self.descriptors
        command = self.command(program, *arguments)
        if few and arguments == ("run",):
            command = ["sh", "-c", f'ulimit -n {few}; exec "$@"', "sh", *command]
        with (self.folder / f"{program}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self._started.append(process)
        return process


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Narrow]:
    terminal = Narrow(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        yield terminal
    finally:
        terminal.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def health(port: int) -> dict[str, Any]:
    """Return what /healthz says; nothing if there was no descriptor for this question either."""
    url = f"http://127.0.0.1:{port}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=100) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            found = json.load(error)
    except OSError:
        return {}
    return found


def connect(port: int, count: int, said: bytes = b"") -> list[socket.socket]:
    """Connect without waiting: what is not let in waits in the kernel's queue, or is refused."""
    peers = []
    for _ in range(count):
        peer = socket.socket()
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            peer.connect(("127.0.0.1", port))
        peers.append(peer)
    for peer in peers:
        if said:
            peer.setblocking(True)
            peer.settimeout(0.01)
            with contextlib.suppress(OSError):
                peer.sendall(said)
    return peers


def test_a_hub_with_1024_descriptors_and_1100_strangers(narrow: Narrow) -> None:
    narrow.descriptors = 1024
    hub = narrow.start_hub()
    narrow.enrol()
    narrow.start_edge()
    narrow.out("edgesync", "sync", "--timeout", "100")
    strangers = list[socket.socket]()

    def is_full() -> bool:
        # Half of them say a little. Silent ones are dropped after 5 s: others take their places.
        for said in (b"", PARTIAL):
            strangers.extend(connect(narrow.http_port, 40, said))
        for old in strangers[:-450]:
            old.close()
        del strangers[:-450]
        return narrow.logged("hubd", "connections, others wait") > 0

    try:
        # Before the link has strangers: it might take the descriptors that fill the door.
        narrow.until(is_full)
        strangers += connect(narrow.link_port, 650)
        epoch = narrow.json("edgesync", "status")["link"]["epoch"]
        assert epoch > 0
        found = dict[str, Any]()

        def is_answered() -> bool:
            found.update(health(narrow.http_port))
            return bool(found)

        narrow.until(is_answered)
        assert found["status"] == "degraded"
        assert any("384 connections" in problem for problem in found["problems"])
        narrow.out("edgesync", "sync", "--timeout", "100")
        assert narrow.json("edgesync", "status")["link"]["epoch"] == epoch
        assert hub.poll() is None
    finally:
        for one in strangers:
            one.close()
    assert narrow.stop(hub) == 0


def test_a_hub_whose_link_took_every_descriptor_goes_on_and_says_so(narrow: Narrow) -> None:
    narrow.descriptors = 160
    hub = narrow.start_hub()
    narrow.enrol()
    narrow.start_edge()
    narrow.out("edgesync", "sync", "--timeout", "100")
    strangers = list[socket.socket]()
    begun = time.monotonic()
    said = dict[str, Any]()

    def is_told() -> bool:
        # Silent ones are dropped after 3 s: others take their places.
        for one in strangers:
            one.close()
        strangers[:] = connect(narrow.link_port, 400)
        said.update(health(narrow.http_port))
        return bool(said.get("problems")) and narrow.logged("hubd", "link: nobody is let in") > 0

    try:
        narrow.until(is_told)
        assert any("file descriptors" in problem for problem in said["problems"])
        assert hub.poll() is None
    finally:
        for one in strangers:
            one.close()
    narrow.out("edgesync", "sync", "--timeout", "100")
    # Of the API and of the link, each once a minute.
    minutes = 1 + int(time.monotonic() - begun) // 60
    assert 0 < narrow.logged("hubd", "nobody is let in") <= 2 * minutes
    assert narrow.stop(hub) == 0


def test_a_hub_whose_edges_took_every_descriptor_says_so(narrow: Narrow) -> None:
    """They have a right to be in, so that the hub does not drop them as it does strangers."""
    narrow.descriptors = 160
    hub = narrow.start_hub()
    narrow.enrol()
    keys = read_keys(narrow.edge_config.parent / "edge.keys")
    server_key = read_keys(narrow.hub_config.parent / "data" / "hub.keys").public
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        edges = [stack.enter_context(context.socket(zmq.DEALER)) for _ in range(200)]
        for edge in edges:
            edge.linger = 0
            edge.curve_serverkey = server_key.encode()
            edge.curve_publickey = keys.public.encode()
            edge.curve_secretkey = keys.secret.encode()
            edge.connect(f"tcp://127.0.0.1:{narrow.link_port}")
        narrow.until(lambda: narrow.logged("hubd", "link: nobody is let in") > 0)
        found = dict[str, Any]()

        def is_answered() -> bool:
            found.update(health(narrow.http_port))
            return bool(found)

        narrow.until(is_answered)
        assert any("file descriptors" in problem for problem in found["problems"])
        # ZeroMQ's own thread may accept some more for a moment.
        narrow.until(lambda: len(list(Path(f"/proc/{hub.pid}/fd").iterdir())) < 160)
    narrow.start_edge()
    narrow.out("edgesync", "sync", "--timeout", "100")
    assert hub.poll() is None


def test_an_edge_with_128_descriptors_and_140_idle_clients_survives_its_hub(
    narrow: Narrow,
) -> None:
    hub = narrow.start_hub()
    narrow.enrol()
    text = narrow.edge_config.read_text().replace("port = 0", f"port = {narrow.modbus_port}")
    (redis_port,) = free_ports(1)
    narrow.edge_config.write_text(f"{text}\n[cells]\nport = {redis_port}\n")
    narrow.descriptors = 128
    edge = narrow.start_edge()
    narrow.out("edgesync", "sync", "--timeout", "100")
    idle = connect(redis_port, 90) + connect(narrow.modbus_port, 50)
    try:
        assert narrow.stop(hub) == 0
        narrow.until(lambda: narrow.json("edgesync", "status")["link"]["epoch"] == 0)
        narrow.descriptors = 0
        hub = narrow.start_hub()
        narrow.out("edgesync", "sync", "--timeout", "100")
        assert edge.poll() is None
        assert narrow.json("edgesync", "status")["link"]["epoch"] > 0
    finally:
        for one in idle:
            one.close()
    assert narrow.stop(edge) == 0
