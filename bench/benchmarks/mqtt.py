"""How many publishes of QoS 1 a second does an edge acknowledge, each on disk before its PUBACK?

Decides whether a site's devices can publish to the edge as they would to a local broker. Beside it,
in the same run, Mosquitto with persistence, which writes its file every second and not before an
acknowledgement: figures are ratios too. `python -m bench.benchmarks.mqtt` prints both, how long an
acknowledgement takes at 1,000 publishes a second, and what 5,000 idle clients take.
`python -m bench.benchmarks.mqtt endless` prints how long others wait for theirs while a device
sends messages that a script of a rule chain never ends with: wanted are less than 100 ms (p99).
"""

import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import psutil

from edgesync.demo.site import free_ports
from edgesync.serve.mqtt.encode import encode
from edgesync.serve.mqtt.packets import V311, Connect, Publish

CLIENTS = 50
TOKEN = "A1_TEST_TOKEN"
ENDLESS_TOKEN = "A2_TEST_TOKEN"
MESSAGES = 60_000
IDLE = 5_000
RATE = 1_000
RATE_S = 10.0
PUBACK_BYTES = 4
ENDLESS = 10
ENDLESS_RATE = 200  # of all others together; in a chain, each second one runs a script


def endless_chain() -> bytes:
    """Return a chain whose script runs for messages with `script`, for ever if it is "endless"."""
    types = "org.thingsboard.rule.engine."
    save = {"type": f"{types}telemetry.TbMsgTimeseriesNode", "configuration": {"defaultTTL": 0}}
    nodes = [
        {"type": f"{types}filter.TbCheckMessageNode", "name": "Has a script",
         "configuration": {"messageNames": ["script"], "metadataNames": [], "checkAllKeys": True}},
        {"type": f"{types}filter.TbJsFilterNode", "name": "Script",
         "configuration": {"jsScript": "while (msg.script == 'endless') {} return true;"}},
        {"name": "Save", **save}, {"name": "Save all the same", **save},
    ]  # fmt: skip
    wires = [(0, 1, "True"), (0, 2, "False"), (1, 2, "True"), (1, 3, "Failure")]
    connections = [{"fromIndex": a, "toIndex": b, "type": relation} for a, b, relation in wires]
    metadata = {"firstNodeIndex": 0, "nodes": nodes, "connections": connections}
    chain = {"ruleChain": {"name": "Root", "root": True}, "metadata": metadata}
    return json.dumps(chain).encode()


@contextmanager
def open_edge(folder: Path, chain: bytes = b"") -> Iterator[tuple[int, psutil.Process]]:
    (port,) = free_ports(1)
    config = folder / "edge.toml"
    config.write_text(f"[http]\nport = 0\n[mqtt]\nport = {port}\n")
    if chain:
        (folder / "chain.json").write_bytes(chain)
        config.write_text(config.read_text() + '[rules]\nchains = "chain.json"\n')
    devices = folder / "mqtt-devices.toml"
    devices.write_text(
        f'[[device]]\nname = "Scale"\ntoken = "{TOKEN}"\n'
        f'[[device]]\nname = "Endless"\ntoken = "{ENDLESS_TOKEN}"\n'
    )
    devices.chmod(0o600)
    command = [sys.executable, "-m", "edgesync", "--config", str(config), "run"]
    with running(command, folder, port) as process:
        yield port, process


@contextmanager
def open_mosquitto(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    (port,) = free_ports(1)
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
        f"persistence_location {folder}/\nautosave_interval 1\nuser root\n"
    )
    with running(["/usr/sbin/mosquitto", "-c", str(config)], folder, port) as process:
        yield port, process


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[psutil.Process]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(1000):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.02)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def connected(port: int, client_id: str, token: str = TOKEN) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port))
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.sendall(encode(Connect(level=V311, client_id=client_id, username=token), V311))
    assert found.recv(4) == b"\x20\x02\x00\x00"
    return found


def packet(packet_id: int, number: int, **more: str) -> bytes:
    values = {"w": number / 4, **more}
    payload = json.dumps({"ts": 1_790_000_000_000 + number, "values": values}).encode()
    return encode(
        Publish(topic="v1/devices/me/telemetry", payload=payload, qos=1, packet_id=packet_id), V311
    )


def per_s(port: int, inflight: int, messages: int = MESSAGES) -> float:
    """Publish from 50 clients, each with so many messages that wait for a PUBACK."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(port, f"c{n}")) for n in range(CLIENTS)]
        by_number = {one.fileno(): one for one in clients}
        # Made before: what is measured is the server.
        packets = [packet(number % 65_535 + 1, number) for number in range(1000)]
        epoll = stack.enter_context(select.epoll())
        for number in by_number:
            epoll.register(number, select.EPOLLIN)
        sent = answered = 0
        begun = time.perf_counter()
        for one in clients:
            one.sendall(b"".join(packets[:inflight]))
            sent += inflight
        while answered < sent:
            for number, _ in epoll.poll():
                count = len(by_number[number].recv(65_536)) // PUBACK_BYTES
                answered += count
                if sent < messages:
                    at = sent % (1000 - 100)
                    by_number[number].sendall(b"".join(packets[at : at + min(count, 100)]))
                    sent += min(count, 100)
        return answered / (time.perf_counter() - begun)


def latencies_ms(port: int, rate: int = RATE, script: str = "") -> list[float]:
    """Publish at a steady rate from 50 clients in turn; return how long each PUBACK took.

    script   is said by every second message; each message's own packet is what is waited for
    """
    found: list[float] = []
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(port, f"c{n}")) for n in range(CLIENTS)]
        epoll = stack.enter_context(select.epoll())
        due: dict[int, list[float]] = {one.fileno(): [] for one in clients}
        by_number = {one.fileno(): one for one in clients}
        for number in due:
            epoll.register(number, select.EPOLLIN)
        begun, sent = time.perf_counter(), 0
        while len(found) < rate * RATE_S:
            now = time.perf_counter()
            if sent < rate * RATE_S and now >= begun + sent / rate:
                client = clients[sent % CLIENTS]
                more = {"script": script} if script and sent % 2 else {}
                client.sendall(packet(sent % 65_535 + 1, sent, **more))
                due[client.fileno()].append(now)
                sent += 1
                continue
            for number, _ in epoll.poll(max(0.0, begun + sent / rate - now)):
                count = len(by_number[number].recv(65_536)) // PUBACK_BYTES
                at = time.perf_counter()
                for _ in range(count):
                    found.append((at - due[number].pop(0)) * 1000)
    return found


def idle_bytes(port: int, process: psutil.Process) -> float:
    """Return the resident memory that so many idle clients add."""
    before = process.memory_info().rss
    with ExitStack() as stack:
        for number in range(IDLE):
            stack.enter_context(connected(port, f"idle{number}"))
        return float(process.memory_info().rss - before)


class Publishes:
    params: ClassVar = [1, 20]
    param_names: ClassVar = ["inflight"]
    timeout = 300
    unit = "publishes/s"

    def track_publishes_per_s(self, inflight: int) -> float:
        with tempfile.TemporaryDirectory() as folder, open_edge(Path(folder)) as (port, _):
            return per_s(port, inflight)


class Idle:
    timeout = 300
    unit = "bytes"

    def track_bytes_of_5000_idle_clients(self) -> float:
        with tempfile.TemporaryDirectory() as folder, open_edge(Path(folder)) as (port, process):
            return idle_bytes(port, process)


def endless() -> tuple[list[float], list[float], float]:
    """Return PUBACKs of others, without and beside messages that a script never ends with.

    The third is how long all of those took until they were acknowledged, in seconds.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        open_edge(Path(folder), endless_chain()) as (port, _),
    ):
        latencies_ms(port, ENDLESS_RATE, "short")  # and the worker is there
        quiet = latencies_ms(port, ENDLESS_RATE, "short")
        took_s: list[float] = []

        def send_endless() -> None:
            with connected(port, "endless", ENDLESS_TOKEN) as client:
                begun = time.perf_counter()
                for number in range(1, ENDLESS + 1):
                    client.sendall(packet(number, number, script="endless"))
                left = ENDLESS * PUBACK_BYTES
                while left:
                    left -= len(client.recv(left))
                took_s.append(time.perf_counter() - begun)

        thread = threading.Thread(target=send_endless)
        thread.start()
        beside = latencies_ms(port, ENDLESS_RATE, "short")
        thread.join()
        return quiet, beside, took_s[0]


class Endless:
    timeout = 300
    unit = "ms"

    def track_p99_of_others_beside_a_script_that_never_ends(self) -> float:
        _, beside, _ = endless()
        return statistics.quantiles(beside, n=100)[98]


def show_endless() -> None:
    for _ in range(3):
        quiet, beside, took_s = endless()
        for name, found in (("without", quiet), ("beside ten", beside)):
            took = statistics.quantiles(found, n=100)
            worst = max(found)
            print(f"{name:10}: p50 {took[49]:.1f}, p99 {took[98]:.1f}, worst {worst:.1f} ms")
        load = os.getloadavg()[0]
        print(f"the ten were acknowledged within {took_s:.2f} s; load {load:.1f}", flush=True)


def main() -> None:
    if sys.argv[1:] == ["endless"]:
        return show_endless()
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
        open_edge(Path(one)) as (edge, edge_process),
        open_mosquitto(Path(two)) as (broker, broker_process),
    ):
        for inflight in (1, 20):
            figures: dict[str, list[tuple[float, float]]] = {"edge": [], "mosquitto": []}
            for _ in range(3):
                for name, port, process in (
                    ("edge", edge, edge_process), ("mosquitto", broker, broker_process),
                ):  # fmt: skip
                    before = sum(process.cpu_times()[:2])
                    rate = per_s(port, inflight)
                    cpu_us = (sum(process.cpu_times()[:2]) - before) / MESSAGES * 1e6
                    figures[name].append((rate, cpu_us))
            middle = {
                name: [statistics.median(column) for column in zip(*rows, strict=True)]
                for name, rows in figures.items()
            }
            for name, (rate, cpu_us) in middle.items():
                print(f"{name:9} in flight={inflight:2}: {rate:7,.0f}/s, {cpu_us:5.1f} us CPU each")
            print(f"ratio {middle['edge'][0] / middle['mosquitto'][0]:.2f}", flush=True)
        for name, port in (("edge", edge), ("mosquitto", broker)):
            took = statistics.quantiles(latencies_ms(port), n=100)
            print(f"{name:9} at {RATE}/s: p50 {took[49]:.2f} ms, p99 {took[98]:.2f} ms", flush=True)
        print(f"{IDLE} idle clients: {idle_bytes(edge, edge_process) / 1e6:.1f} MB")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
