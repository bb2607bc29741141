"""A daemon with a door for MQTT, and real clients for it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgesync.demo.site import free_ports
from edgesync.serve.control import ask
from tests.edgesync.serve.mqtt.door import DEVICES
from tests.terminal import Terminal, open_terminal

PATIENCE_S = 60


class Daemon:
    """An edge that listens on `port`."""

    def __init__(self, terminal: Terminal, port: int) -> None:
        self.terminal = terminal
        self.port = port
        self.process: subprocess.Popen[bytes]

    @property
    def data_dir(self) -> Path:
        return self.terminal.edge_config.parent / "data"

    def start(self) -> None:
        self.process = self.terminal.start_edge()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def status(self) -> Any:
        return ask(self.data_dir, "status")

    def values(self) -> dict[tuple[str, str], Any]:
        latest = ask(self.data_dir, "latest")
        return {(one["entity"], one["key"]): one["value"] for one in latest}

    def events(self, entity: str) -> list[str]:
        found = ask(self.data_dir, "events", query={"entity": entity})
        return [one["body"] for one in reversed(found) if one["type"] != "SERIES"]

    def client(
        self,
        token: str = "SCALE_TOKEN",
        *,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
        inflight_max: int = 20,
        **more: Any,
    ) -> paho.Client:
        """Return paho's client, connected."""
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol, **more)
        client.username_pw_set(token)
        client.max_inflight_messages_set(inflight_max)
        assert client.connect("127.0.0.1", self.port) == paho.MQTT_ERR_SUCCESS
        client.loop_start()
        return client

    def mosquitto(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program, "-h", "127.0.0.1", "-p", str(self.port), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


@contextmanager
def open_daemon(folder: Path, more: str = "", *, has_hub: bool = False) -> Iterator[Daemon]:
    """Run an edge, with `more` behind its [mqtt]; `has_hub`: the edge barn-7 of a hub that runs."""
    (port,) = free_ports(1)
    with open_terminal(folder) as terminal:
        if has_hub:
            terminal.start_hub()
            terminal.enrol()
        else:
            terminal.out("edgesync", "init")
        text = terminal.edge_config.read_text().replace("port = 9464", "port = 0")
        terminal.edge_config.write_text(f"{text}\n[mqtt]\nport = {port}\n{more}")
        devices = terminal.edge_config.parent / "mqtt-devices.toml"
        devices.write_text(DEVICES)
        devices.chmod(0o600)
        daemon = Daemon(terminal, port)
        daemon.start()
        yield daemon
