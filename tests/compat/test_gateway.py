"""thingsboard-gateway, unmodified: from a broker and a Modbus meter to an edge, over a bad cable.

A minute here; EDGESYNC_COMPAT_SECONDS makes it longer.
"""

import datetime
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import trio
from paho.mqtt.enums import CallbackAPIVersion

from edgesync import EdgeNode
from edgesync.demo.site import free_ports
from tests.compat.test_programs import INSTALLED
from tests.edgesync.serve.mqtt.daemon import Daemon, open_daemon
from tests.faults.proxy import Proxy, open_proxy

SECONDS = float(os.environ.get("EDGESYNC_COMPAT_SECONDS", "60"))
CUTS = 20
A_SECOND = 20
PATIENCE_S = 120
pytestmark = [
    pytest.mark.feature("S29", "F1"), pytest.mark.long, pytest.mark.timeout(SECONDS + 600),
]  # fmt: skip
KEPT = "\n[series]\ningested = true\nkeep = 1000000\n"


def connector(kind: str) -> dict[str, str]:
    return {"type": kind, "name": kind, "configuration": f"{kind}.json"}


def write_settings(folder: Path, edge_port: int, broker_port: int, modbus_port: int) -> None:
    """Settings of the gateway: its queue is on disk, all it reads is sent."""
    device = {
        "deviceNameExpressionSource": "constant", "deviceNameExpression": "Silo",
        "deviceProfileExpressionSource": "constant", "deviceProfileExpression": "default",
    }  # fmt: skip
    mapping = {
        "topicFilter": "silo", "subscriptionQos": 1,
        "converter": {
            "type": "json", "deviceInfo": device, "sendDataOnlyOnChange": False, "timeout": 60000,
            # Of two values of a key and one time the gateway itself keeps one.
            "timeseries": [
                {"type": "integer", "key": "n", "value": "${n}", "tsField": "${at}"}
            ],
        },
    }  # fmt: skip
    broker = {
        "host": "127.0.0.1", "port": broker_port, "clientId": "gateway", "version": 5,
        "maxMessageNumberPerWorker": 10, "maxNumberOfWorkers": 1, "cleanSession": True,
        "cleanStart": True, "sessionExpiryInterval": 0, "security": {"type": "anonymous"},
    }  # fmt: skip
    power = {"tag": "power", "type": "32int", "functionCode": 3, "objectsCount": 2, "address": 0}
    slave = {
        "host": "127.0.0.1", "port": modbus_port, "type": "tcp", "method": "socket", "unitId": 1,
        "deviceName": "Meter", "deviceType": "default", "timeout": 5, "byteOrder": "BIG",
        "wordOrder": "BIG", "retries": 3, "pollPeriod": 500, "connectAttemptTimeMs": 1000,
        "connectAttemptCount": 50, "waitAfterFailedAttemptsMs": 1000, "attributes": [],
        "timeseries": [power], "attributeUpdates": [], "rpc": [],
    }  # fmt: skip
    thingsboard = {
        "host": "127.0.0.1", "port": edge_port, "remoteShell": False, "remoteConfiguration": False,
        "security": {"type": "accessToken", "accessToken": "GATE_TOKEN"}, "qos": 1,
        "statistics": {"enable": False}, "minPackSendDelayMS": 50, "minPackSizeToSend": 500,
        "maxPayloadSizeBytes": 8196, "reportStrategy": {"type": "ON_RECEIVED"},
        "checkConnectorsConfigurationInSeconds": 60,
        "checkingDeviceActivity": {"checkDeviceInactivity": False},
    }  # fmt: skip
    storage = {
        "type": "file", "data_folder_path": str(folder / "data"), "max_file_count": 1000,
        "max_read_records_count": 100, "max_records_per_file": 10_000,
    }  # fmt: skip
    files = {
        "tb_gateway": {
            "thingsboard": thingsboard, "storage": storage, "grpc": {"enabled": False},
            "connectors": [connector("mqtt"), connector("modbus")],
        },
        "mqtt": {"broker": broker, "mapping": [mapping], "requestsMapping": {}},
        "modbus": {"master": {"slaves": [slave]}},
        "logs": {
            "version": 1, "disable_existing_loggers": False,
            "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
            "loggers": {}, "root": {"handlers": ["out"], "level": "INFO"},
        },
    }  # fmt: skip
    for name, settings in files.items():
        (folder / f"{name}.json").write_text(json.dumps(settings))
    (folder / "data").mkdir()


@contextmanager
def process(folder: Path, name: str, command: list[str], **environment: str) -> Iterator[None]:
    with (folder / f"{name}.log").open("wb") as log:
        started = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **environment}
        )
        try:
            yield
            assert started.poll() is None, (folder / f"{name}.log").read_text()[-3000:]
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


async def cut_now_and_then(proxy: Proxy) -> None:
    for _ in range(CUTS):
        await trio.sleep(SECONDS / (CUTS + 1))
        proxy.cut()


async def publish(port: int) -> int:
    """Publish numbers to the broker, from 0 on; returns how many."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    count = int(SECONDS * A_SECOND)
    for number in range(count):
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        client.publish("silo", json.dumps({"n": number, "at": at}), qos=1)
        await trio.sleep(1 / A_SECOND)
    client.disconnect()
    client.loop_stop()
    return count


async def until_arrived(daemon: Daemon, key: tuple[str, str], value: Any = None) -> None:
    """Wait until the edge has this newest value, or any."""
    with trio.fail_after(PATIENCE_S):
        while True:
            found = await trio.to_thread.run_sync(daemon.values)
            if key in found and value in (None, found[key]):
                return
            await trio.sleep(0.5)


async def test_the_gateway_brings_everything_over_cut_cables_and_no_more(tmp_path: Path) -> None:
    assert INSTALLED.exists(), f"nothing is installed in {INSTALLED}; `make compat` does it"
    folder = tmp_path / "gateway"
    folder.mkdir()
    broker_port, modbus_port = free_ports(2)
    (folder / "broker.conf").write_text(
        f"listener {broker_port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
    )
    with open_daemon(tmp_path, KEPT) as daemon:
        daemon.terminal.start("edgesync", "simulate", "modbus", "--port", str(modbus_port))
        async with open_proxy(("127.0.0.1", daemon.port)) as proxy:
            write_settings(folder, proxy.address[1], broker_port, modbus_port)
            path = f"{os.environ['PATH']}:/usr/sbin"
            with (
                process(folder, "broker", ["mosquitto", "-c", "broker.conf"], PATH=path),
                process(
                    folder, "gateway", [str(INSTALLED / "thingsboard/bin/thingsboard-gateway")],
                    TB_GW_CONFIG_DIR=str(folder),
                ),
            ):  # fmt: skip
                await until_arrived(daemon, ("Meter", "power"))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cut_now_and_then, proxy)
                    count = await publish(broker_port)
                await until_arrived(daemon, ("Silo", "n"), count - 1)
                messages = daemon.status()["mqtt"]["messages"]
                await trio.sleep(5)
                later = daemon.status()["mqtt"]["messages"]
            refusals = daemon.status()["mqtt"]["refusals"]
        daemon.terminal.stop(daemon.process)
        silo, meter = stored(daemon.terminal.edge_config)
    assert refusals == []
    assert set(silo) == set(range(count)), sorted(set(range(count)) - set(silo))[:20]
    # What was under way when the cable was cut comes again, once: a pack of 100 at most.
    assert len(silo) <= count + CUTS * 100
    # No loop of resends is left: the meter is polled twice a second.
    assert later - messages <= 60
    assert len(meter) >= SECONDS / 2


def stored(config: Path) -> tuple[list[int], list[float]]:
    with EdgeNode(config) as node:
        found = []
        for entity, key in (("Silo", "n"), ("Meter", "power")):
            series = node.points.find(entity, key)
            assert series is not None
            found.append([value for _, value in node.points.readings(series, limit=10**6)])
        return [int(value) for value in found[0]], found[1]
