"""Clients people have, unmodified, against the daemon: paho-mqtt and Mosquitto's programs."""

import contextlib
import json
import resource
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgesync.demo.site import free_ports
from edgesync.serve.http import metrics
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.packets import V311, Connect
from edgesync.status import Status
from tests.edgesync.serve.mqtt.certificates import Made, make_self_signed
from tests.edgesync.serve.mqtt.daemon import PATIENCE_S, Daemon, open_daemon
from tests.edgesync.serve.mqtt.door import DEVICES, make_certificate
from tests.terminal import open_terminal

ME = "v1/devices/me/"
VERSIONS = pytest.mark.parametrize(
    "protocol", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5]
)


def published(client: paho.Client, topic: str, payload: Any, qos: int = 1) -> None:
    """Publish, and wait for the acknowledgement."""
    raw = payload if isinstance(payload, str | bytes) else json.dumps(payload)
    sent = client.publish(topic, raw, qos=qos)
    sent.wait_for_publish(PATIENCE_S)
    assert sent.is_published()


def ended(client: paho.Client) -> None:
    client.disconnect()
    client.loop_stop()


@pytest.mark.feature("F1", "S29")
@VERSIONS
@pytest.mark.parametrize("qos", [1, 2])
def test_paho_publishes_and_what_it_is_told_is_stored(
    tmp_path: Path, protocol: MQTTProtocolVersion, qos: int
) -> None:
    with open_daemon(tmp_path) as daemon:
        client = daemon.client(protocol=protocol)
        for number in range(200):
            client.publish(ME + "telemetry", json.dumps({"n": number}), qos=qos)
        published(client, ME + "telemetry", {"n": 200}, qos)
        assert daemon.values() == {("Scale", "n"): 200}
        assert daemon.status()["mqtt"]["readings"] == 201
        published(client, ME + "attributes", {"model": "S7"}, qos)
        assert json.loads(daemon.events("Scale")[-1])["values"] == {"model": "S7"}
        ended(client)


@pytest.mark.feature("S29")
@VERSIONS
def test_paho_asks_as_clients_of_thingsboard_do(
    tmp_path: Path, protocol: MQTTProtocolVersion
) -> None:
    """What tb-mqtt-client does after it has connected (thingsboard-python-client-sdk)."""
    answers: dict[str, Any] = {}
    came = threading.Event()

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        answers[message.topic] = json.loads(message.payload)
        if len(answers) == 3:
            came.set()

    with open_daemon(tmp_path) as daemon:
        client = daemon.client("GATE_TOKEN", protocol=protocol)
        client.on_message = on_message
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe(
            [
                (ME + one, 1)
                for one in ("attributes", "attributes/response/+", "rpc/request/+",
                            "rpc/response/+")
            ] + [("v1/gateway/" + one, 1) for one in ("attributes", "attributes/response", "rpc")]
        )  # fmt: skip
        assert subscribed.wait(PATIENCE_S)
        asked = {"method": "getSessionLimits", "params": {"timeout": 5000}}
        client.publish(ME + "rpc/request/1", json.dumps(asked), qos=1)
        keys = {"clientKeys": "model", "sharedKeys": "mode"}
        client.publish(ME + "attributes/request/2", json.dumps(keys), qos=1)
        of_child = {"id": 3, "device": "A", "client": False, "keys": ["mode"]}
        client.publish("v1/gateway/attributes/request", json.dumps(of_child), qos=1)
        assert came.wait(PATIENCE_S)
        assert answers[ME + "rpc/response/1"]["maxPayloadSize"] == 65_536
        assert answers[ME + "attributes/response/2"] == {}
        assert answers["v1/gateway/attributes/response"] == {
            "id": 3, "device": "A", "values": {},
        }  # fmt: skip
        published(client, "v1/gateway/telemetry", {"A": [{"w": 1}], "B": [{"w": 2}]})
        assert daemon.values() == {("A", "w"): 1, ("B", "w"): 2}
        ended(client)


def test_paho_is_told_why_a_message_was_refused(tmp_path: Path) -> None:
    told: list[str] = []
    came = threading.Event()

    def on_publish(_client: Any, _data: Any, _mid: int, code: object, properties: Any) -> None:
        told.append(f"{code}: {properties.ReasonString}")
        came.set()

    with open_daemon(tmp_path) as daemon:
        client = daemon.client(protocol=MQTTProtocolVersion.MQTTv5)
        client.on_publish = on_publish
        client.publish(ME + "telemetry", '{"ts":"soon","values":{"a":1}}', qos=1)
        assert came.wait(PATIENCE_S)
        problem = "ts: is no time in milliseconds since 1970"
        assert told == [f"Payload format invalid: {problem}"]
        status = daemon.status()["mqtt"]
        assert status["refusals"][0]["problem"] == problem
        ended(client)


def test_paho_keeps_its_session(tmp_path: Path) -> None:
    connected = threading.Event()
    flags: list[bool] = []

    def on_connect(_client: Any, _data: Any, found: paho.ConnectFlags, *_: Any) -> None:
        flags.append(found.session_present)
        connected.set()

    expiry: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    expiry.SessionExpiryInterval = 3600
    with open_daemon(tmp_path) as daemon:
        for _ in range(2):
            client = paho.Client(
                CallbackAPIVersion.VERSION2, client_id="c", protocol=MQTTProtocolVersion.MQTTv5
            )
            client.username_pw_set("SCALE_TOKEN")
            client.on_connect = on_connect
            client.connect("127.0.0.1", daemon.port, clean_start=False, properties=expiry)
            client.loop_start()
            assert connected.wait(PATIENCE_S)
            connected.clear()
            ended(client)
        assert flags == [False, True]


@pytest.mark.feature("S29")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_mosquitto_pub_publishes(tmp_path: Path, version: str, qos: str) -> None:
    more = '[[mqtt.topics]]\ntopic = "barn/{device}/temperature"\nformat = "number"\n'
    with open_daemon(tmp_path, more) as daemon:
        common = ("-V", version, "-q", qos, "-u", "GATE_TOKEN")
        sent = daemon.mosquitto(
            "mosquitto_pub", *common, "-t", "barn/pen4/temperature", "-m", "21.5"
        )
        assert (sent.returncode, sent.stderr) == (0, "")
        lines = "".join(f'{{"P{number}":[{{"w":{number}}}]}}\n' for number in range(300))
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(daemon.port), *common]
        done = subprocess.run(
            [*command, "-t", "v1/gateway/telemetry", "-l"], input=lines, text=True,
            capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        wanted = {(f"P{number}", "w"): number for number in range(300)}
        daemon.terminal.until(lambda: len(daemon.values()) == 301)
        assert daemon.values() == {("pen4", "temperature"): 21.5, **wanted}


def test_mosquitto_pub_is_refused_without_credentials(tmp_path: Path) -> None:
    with open_daemon(tmp_path) as daemon:
        for version, said in (("mqttv311", "not authorised"), ("mqttv5", "Not authorized")):
            sent = daemon.mosquitto(
                "mosquitto_pub", "-V", version, "-t", ME + "telemetry", "-m", "{}", "-u", "nobody"
            )
            assert sent.returncode
            assert said in sent.stderr


@pytest.mark.feature("S29")
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto_sub_gets_the_answer_of_its_question(tmp_path: Path, version: str) -> None:
    with open_daemon(tmp_path) as daemon:
        asked = daemon.mosquitto(
            "mosquitto_rr", "-V", version, "-u", "SCALE_TOKEN", "-q", "1", "-W", "20",
            "-t", ME + "rpc/request/1", "-e", ME + "rpc/response/1",
            "-m", '{"method":"getSessionLimits","params":{}}',
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)["maxInflightMessages"] == 100
        denied = daemon.mosquitto(
            "mosquitto_sub", "-V", version, "-u", "SCALE_TOKEN", "-t", "secret/#", "-W", "5"
        )
        assert "denied" in denied.stderr


def test_mosquitto_pub_speaks_tls(tmp_path: Path) -> None:
    (tmp_path / "edge").mkdir()
    certificate, _ = make_certificate(tmp_path / "edge")
    plain = 'tls_port = {}\ncertificate = "mqtt.crt"\nkey = "mqtt.key"\n'
    (port,) = free_ports(1)
    with open_daemon(tmp_path, plain.format(port)) as daemon:
        tls = Daemon(daemon.terminal, port)
        lines = "".join(f'{{"n":{number}}}\n' for number in range(2000))
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-u", "SCALE_TOKEN"]
        done = subprocess.run(
            [*command, "-q", "1", "--cafile", str(certificate), "-t", ME + "telemetry", "-l"],
            input=lines, text=True, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert daemon.values() == {("Scale", "n"): 1999}
        wrong = tls.mosquitto("mosquitto_pub", "-u", "SCALE_TOKEN", "-t", "x", "-m", "x")
        assert wrong.returncode
        published_again = daemon.mosquitto(
            "mosquitto_pub", "-u", "SCALE_TOKEN", "-q", "1", "-t", ME + "telemetry", "-m", '{"n":1}'
        )
        assert published_again.returncode == 0


@pytest.mark.feature("S29")
def test_mosquitto_and_paho_show_certificates(tmp_path: Path) -> None:
    """And are told why they are refused: a stranger by TLS, who has expired by a CONNACK."""
    folder = tmp_path / "edge"
    folder.mkdir()
    certificate, _ = make_certificate(folder)
    valve, stranger = make_self_signed(folder, "valve"), make_self_signed(folder, "stranger")
    old = make_self_signed(folder, "old", days=-1)
    (port,) = free_ports(1)
    with open_daemon(
        tmp_path, f'tls_port = {port}\ncertificate = "mqtt.crt"\nkey = "mqtt.key"\n'
    ) as daemon:
        devices = daemon.terminal.edge_config.parent / "mqtt-devices.toml"
        entries = "".join(
            f'\n[[device]]\nname = "{name}"\n{made.entry}'
            for name, made in (("Valve 3", valve), ("Old", old))
        )
        devices.write_text(DEVICES + entries)
        tls = Daemon(daemon.terminal, port)

        def sent(made: Made, version: str) -> subprocess.CompletedProcess[str]:
            return tls.mosquitto(
                "mosquitto_pub", "-V", version, "--cafile", str(certificate),
                "--cert", str(made.certificate), "--key", str(made.key), "-q", "1",
                "-t", ME + "telemetry", "-m", '{"n":1}',
            )  # fmt: skip

        for version in ("mqttv311", "mqttv5"):
            done = sent(valve, version)
            assert (done.returncode, done.stderr) == (0, "")
        assert daemon.values() == {("Valve 3", "n"): 1}
        assert "Connection Refused: not authorised" in sent(old, "mqttv311").stderr
        assert "Not authorized" in sent(old, "mqttv5").stderr
        assert "The connection was lost" in sent(stranger, "mqttv311").stderr
        assert daemon.status()["mqtt"]["rejected"] == 3

        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="p")
        client.tls_set(str(certificate), str(valve.certificate), str(valve.key))
        assert client.connect("127.0.0.1", port) == paho.MQTT_ERR_SUCCESS
        client.loop_start()
        published(client, ME + "telemetry", {"n": 2})
        assert daemon.values() == {("Valve 3", "n"): 2}
        ended_by: list[str] = []
        left = threading.Event()

        def on_disconnect(_c: Any, _d: Any, _flags: Any, reason: object, _p: Any) -> None:
            ended_by.append(str(reason))
            left.set()

        client.on_disconnect = on_disconnect
        devices.write_text(DEVICES)
        assert left.wait(PATIENCE_S)
        client.loop_stop()
        assert ended_by[0] != "Success"
        assert daemon.status()["mqtt"]["clients"] == 0
    assert daemon.terminal.logged("edgesync", "not let in: address=127.0.0.1:")


def test_status_and_metrics_count_what_came(tmp_path: Path) -> None:
    with open_daemon(tmp_path) as daemon:
        client = daemon.client()
        published(client, ME + "telemetry", {"a": 1})
        published(client, ME + "telemetry", "{")
        printed = daemon.terminal.out("edgesync", "status")
        assert "mqtt      1 clients, 2 messages, 1 of them refused, 0 not let in" in printed
        assert f"last refused: Scale {ME}telemetry: payload: is not JSON" in printed
        status = msgspec.convert(daemon.status(), Status)
        lines = metrics(status).decode().splitlines()
        assert 'edgesync_mqtt_messages_total{edge="edge"} 2' in lines
        assert 'edgesync_mqtt_clients{edge="edge"} 1' in lines
        ended(client)


def test_thousands_of_idle_clients_are_cheap(tmp_path: Path) -> None:
    wanted = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted + 200), hard))
    with open_daemon(tmp_path) as daemon, contextlib.ExitStack() as stack:
        daemon.mosquitto(
            "mosquitto_pub", "-u", "SCALE_TOKEN", "-q", "1", "-t", ME + "telemetry", "-m", "{}"
        )
        process = psutil.Process(daemon.process.pid)
        before = process.memory_info().rss
        for number in range(wanted):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
            welcome = Connect(level=V311, client_id=f"c{number}", username="SCALE_TOKEN")
            idle.sendall(encode(welcome, V311))
            assert idle.recv(4) == b"\x20\x02\0\0"
        each = (process.memory_info().rss - before) / wanted
        assert each < 12_000, f"{each:.0f} bytes a client"
        # Not paho: it waits with select(), which knows 1024 descriptors.
        sent = daemon.mosquitto(
            "mosquitto_pub", "-u", "SCALE_TOKEN", "-q", "1", "-t", ME + "telemetry",
            "-m", '{"a":1}',
        )  # fmt: skip
        assert sent.returncode == 0
        assert daemon.values() == {("Scale", "a"): 1}


def test_check_says_where_devices_connect_and_what_is_doubtful(tmp_path: Path) -> None:
    with open_terminal(tmp_path) as terminal:
        terminal.out("edgesync", "init")
        text = terminal.edge_config.read_text()
        terminal.edge_config.write_text(f'{text}\n[mqtt]\nport = 1883\nhost = "0.0.0.0"\n')
        devices = terminal.edge_config.parent / "mqtt-devices.toml"
        missing = terminal.run("edgesync", "check")
        assert missing.returncode == 78
        assert "mqtt-devices.toml" in missing.stderr
        devices.write_text(DEVICES)
        devices.chmod(0o644)
        found = terminal.json("edgesync", "check")
        assert found["mqtt"] == [1883]
        assert [one.partition(":")[0] for one in found["doubts"]] == [
            f"{devices} holds secrets and others may read it", "mqtt.port on 0.0.0.0",
        ]  # fmt: skip
        door = '\n[device_http]\nport = 8081\nhost = "0.0.0.0"\n'
        terminal.edge_config.write_text(terminal.edge_config.read_text() + door)
        both = terminal.json("edgesync", "check")["doubts"]
        assert sum("holds secrets" in one for one in both) == 1
        for more, field in (
            ("tls_port = 8883", "mqtt.tls_port"),
            ('tls_port = 8883\ncertificate = "no.crt"\nkey = "no.key"', "mqtt.certificate"),
            ('[[mqtt.topics]]\ntopic = "a/#/b"', "mqtt.topics[0].topic"),
        ):
            terminal.edge_config.write_text(f"{text}\n[mqtt]\nport = 1883\n{more}\n")
            refused = terminal.run("edgesync", "check")
            assert refused.returncode == 78
            assert field in refused.stderr, refused.stderr


def test_a_door_that_cannot_open_leaves_the_rest_running(tmp_path: Path) -> None:
    with open_daemon(tmp_path) as daemon:
        terminal = daemon.terminal
        assert terminal.stop(daemon.process) == 0
        devices = terminal.edge_config.parent / "mqtt-devices.toml"
        devices.write_text('[[device]]\nname = "Scale"\n')
        daemon.start()
        assert terminal.logged("edgesync", "no MQTT clients: ")
        assert terminal.logged("edgesync", "device[0] (Scale): has no credentials")
        assert daemon.status()["mqtt"] is None
        [door] = daemon.status()["indicators"]
        assert "add token, username, client_id or certificate" in door["text"]
        devices.write_text(DEVICES)
        terminal.until(lambda: daemon.status()["mqtt"] is not None)
        assert daemon.status()["indicators"] == []
        assert terminal.stop(daemon.process) == 0
        with socket.create_server(("127.0.0.1", daemon.port)):
            daemon.start()
            assert terminal.logged("edgesync", f"no MQTT clients: mqtt.port {daemon.port}")


@pytest.mark.feature("F24")
def test_when_descriptors_run_short_clients_wait_and_nothing_ends(tmp_path: Path) -> None:
    with open_daemon(tmp_path) as daemon:
        client = daemon.client()
        pid = daemon.process.pid
        limit = psutil.Process(pid).num_fds() + 100
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port)))
            daemon.terminal.until(lambda: daemon.terminal.logged("edgesync", "nobody is let in"))
            published(client, ME + "telemetry", {"a": 1})
            assert daemon.values() == {("Scale", "a"): 1}
        later = daemon.client(client_id="later")
        published(later, ME + "telemetry", {"a": 2})
        ended(client)
        ended(later)
