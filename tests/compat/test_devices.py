"""Clients of devices, unmodified, against a real edge and its hub. `make compat` installs them."""

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode
from tests.compat.test_programs import INSTALLED, PROGRAMS
from tests.edgesync.serve.mqtt.daemon import Daemon, open_daemon
from tests.faults.proxy import Proxy, open_proxy
from tests.sites import until

pytestmark = [pytest.mark.feature("S29", "F1"), pytest.mark.long]

PYTHON = [str(INSTALLED / "venv/bin/python"), str(PROGRAMS / "cables.py")]
NODE = ["node", str(PROGRAMS / "cables.cjs")]
NODE_PATH = str(INSTALLED / "node" / "node_modules")
KEPT = "\n[series]\ningested = true\nkeep = 100000\n"
CUTS = 20
BYTES_A_CUT = 6000
MESSAGES = 4000
PATIENCE_S = 120


class Program:
    """A program of tb-mqtt-client that runs; what it tells is a line of JSON each."""

    def __init__(self, port: int, name: str) -> None:
        assert INSTALLED.exists(), f"nothing is installed in {INSTALLED}; `make compat` does it"
        self._process = subprocess.Popen(
            [INSTALLED / "thingsboard/bin/python", PROGRAMS / "thingsboard.py", str(port), name],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/tmp",
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise AssertionError(self._process.communicate()[1])
        found: dict[str, Any] = json.loads(line)
        return found

    def ended(self) -> None:
        _, errors = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0, errors

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def running(daemon: Daemon, name: str) -> Iterator[Program]:
    program = Program(daemon.port, name)
    try:
        yield program
        program.ended()
    finally:
        program.kill()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An edge that has joined a hub."""
    with open_daemon(tmp_path_factory.mktemp("site"), has_hub=True) as made:
        yield made


def called(daemon: Daemon, device: str) -> Any:
    return daemon.terminal.json(
        "hubd", "rpc", "send", "barn-7", device, "set", '{"v": 1}', "--wait", "20"
    )


def test_telemetry_of_tb_mqtt_client_is_stored_also_what_it_splits(daemon: Daemon) -> None:
    with running(daemon, "telemetry") as program:
        limit = program.told()["limit"]
    assert 0 < limit < 65_536  # it was told, and keeps a distance
    found = daemon.values()
    wanted: dict[str, Any] = {"weight": 412.5, "on": True, "n": 499}
    wanted |= {f"key{number}": "x" * 100 for number in range(900)}
    assert {key: value for (name, key), value in found.items() if name == "Scale"} == wanted


def test_tb_mqtt_client_asks_for_attributes_and_is_pushed_them(daemon: Daemon) -> None:
    with running(daemon, "attributes") as program:
        asked = program.told()["asked"]
        assert asked["client"] == {"model": "S7", "nested": {"a": [1, 2]}}
        daemon.terminal.out("hubd", "attributes", "barn-7", "Scale", "limit=950")
        assert program.told()["pushed"] == {"limit": 950}


def test_tb_mqtt_client_calls_and_is_called(daemon: Daemon) -> None:
    with running(daemon, "rpc") as program:
        assert "nobody answers" in program.told()["answer"]["error"]
        call = called(daemon, "Scale")
        assert program.told()["call"] == {"method": "set", "params": {"v": 1}}
        assert (call["state"], call["answer"]) == ("ANSWERED", {"heard": {"v": 1}})


def test_the_gateway_of_tb_mqtt_client_speaks_for_its_device(daemon: Daemon) -> None:
    with running(daemon, "gateway") as program:
        assert program.told()["asked"]["values"] == {"floor": "slatted"}
        call = called(daemon, "Pen A")
        assert program.told()["call"]["data"]["params"] == {"v": 1}
        assert (call["state"], call["answer"]) == ("ANSWERED", {"ok": 1})
    assert daemon.values()["Pen A", "w"] == 7


def test_tb_mqtt_client_is_provisioned(daemon: Daemon) -> None:
    devices = daemon.terminal.edge_config.parent / "mqtt-devices.toml"
    key = '\n[[provision]]\nkey = "scales"\nsecret = "scales-secret"\n'
    devices.write_text(devices.read_text() + key)
    with running(daemon, "provision") as program:
        answers = program.told()
        assert answers["made"]["status"] == "SUCCESS"
        assert answers["basic"]["credentialsValue"] == {
            "clientId": "s9", "userName": "scale9", "password": "secret",
        }  # fmt: skip
        assert answers["again"] is None
    assert daemon.values()["Scale 8", "weight"] == 8


def test_tb_mqtt_client_lets_itself_and_its_device_be_claimed(daemon: Daemon) -> None:
    with running(daemon, "claim"):
        pass
    daemon.terminal.out("edgesync", "sync")
    for name, secret in (("Gate", "secret"), ("Pen B", "other")):
        claimed = json.loads(
            daemon.terminal.out("hubd", "claim", "barn-7", name, secret, "--by", "ana")
        )
        assert claimed["by"] == "ana"


def test_tb_mqtt_client_takes_its_firmware(daemon: Daemon) -> None:
    data = random.Random(7).randbytes(12_345)
    path = daemon.terminal.edge_config.parent / "firmware" / "scale" / "1.4.2"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    checksum = hashlib.sha256(data).hexdigest()
    daemon.terminal.out(
        "hubd", "attributes", "barn-7", "Scale", "fw_title=scale", "fw_version=1.4.2",
        f"fw_size={len(data)}", f"fw_checksum={checksum}", "fw_checksum_algorithm=SHA256",
    )  # fmt: skip
    with running(daemon, "firmware") as program:
        for _ in range(2):
            assert program.told() == {"sha256": checksum, "version": "1.4.2"}
    assert daemon.values()["Scale", "fw_state"] == "UPDATED"


async def cut_cables(proxy: Proxy, has_ended: trio.Event) -> int:
    """Cut the cable in the middle of what is sent, as often as CUTS; returns how often it was."""
    cuts = 0
    while cuts < CUTS and not has_ended.is_set():
        proxy.cut_after_bytes = BYTES_A_CUT
        await until(lambda: proxy.cut_after_bytes is None or has_ended.is_set())
        cuts += proxy.cut_after_bytes is None
    return cuts


@pytest.mark.parametrize("version", ["3", "5"])
@pytest.mark.parametrize("command", [PYTHON, NODE], ids=["paho", "MQTT.js"])
async def test_over_cut_cables_nothing_is_lost_and_the_order_is_kept(
    tmp_path: Path, command: list[str], version: str
) -> None:
    assert INSTALLED.exists(), f"nothing is installed in {INSTALLED}; `make compat` does it"
    with open_daemon(tmp_path, KEPT) as daemon:
        async with open_proxy(("127.0.0.1", daemon.port)) as proxy, trio.open_nursery() as nursery:
            has_ended = trio.Event()
            cuts = 0

            async def cut() -> None:
                nonlocal cuts
                cuts = await cut_cables(proxy, has_ended)

            nursery.start_soon(cut)
            done = await trio.run_process(
                [*command, str(proxy.address[1]), str(MESSAGES), version],
                env={**os.environ, "NODE_PATH": NODE_PATH}, check=False,
                capture_stdout=True, capture_stderr=True,
            )  # fmt: skip
            has_ended.set()
        assert done.returncode == 0, done.stderr[-3000:]
        assert cuts == CUTS
        daemon.terminal.stop(daemon.process)
        numbers = stored_numbers(daemon.terminal.edge_config)
    # What was under way when the cable was cut comes again, in its order.
    assert list(dict.fromkeys(numbers)) == list(range(MESSAGES))


def stored_numbers(config: Path) -> list[int]:
    with EdgeNode(config) as node:
        series = node.points.find("Scale", "n")
        assert series is not None
        return [int(value) for _, value in node.points.readings(series)]
