"""What does an idle edge cost, and how soon does it measure?

Decides which gateway it fits on: 50 and more Modbus points at 1 s, a link that has nothing to do.
`python -m bench.benchmarks.footprint` prints medians of five, plain and with every door and part
switched on: keys and Redis' port, MQTT, devices over HTTP, rule chains with an alarm, sums by the
minute, tunnels.
"""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.benchmarks.rig import Rig, open_rig, rss_bytes
from edgesync.demo.site import free_ports
from edgesync.demo.tour import chain
from edgesync.errors import EdgesyncError
from edgesync.serve.control import ask

RUNS = 5
SETTLE_S = 15.0
DEVICES = (("meter0", 1, "meter"), ("battery0", 2, "battery"), ("pv0", 3, "pv"))


def with_devices(rig: Rig, port: int) -> None:
    text = rig.config.read_text()
    for name, unit_id, profile in DEVICES:
        text += (
            f'\n[[modbus]]\nname = "{name}"\nhost = "127.0.0.1"\nport = {port}\n'
            f'unit_id = {unit_id}\nprofile = "edgesync-sim-{profile}"\n'
            'poll_groups.fast.every = "1s"\n'
        )
    rig.config.write_text(text)


def with_everything(rig: Rig) -> None:
    """Switch on all that an edge can do; nobody uses it."""
    redis, mqtt, device_http = free_ports(3)
    devices, chains = rig.config.with_name("mqtt-devices.toml"), rig.config.with_name("rules")
    devices.write_text('[[device]]\nname = "scale"\ntoken = "footprint"\n')
    devices.chmod(0o600)
    chains.mkdir()
    (chains / "root.json").write_bytes(chain())
    rig.config.write_text(
        rig.config.read_text()
        + f'\n[cells]\npreset = "iot"\nport = {redis}\n[mqtt]\nport = {mqtt}\n'
        f'[device_http]\nport = {device_http}\n[rules]\nchains = "rules"\n'
        '[tunnel]\nallow = ["127.0.0.1:22"]\n'
        '[series]\ningested = true\n[[series.rollup]]\nprefix = ""\n'
    )


def first_reading_s(rig: Rig, started: float) -> float:
    """Seconds from `started` until the edge has stored a reading."""
    while True:
        try:
            if ask(rig.data_dir, "status", timeout_s=1.0)["readings"]:
                return time.perf_counter() - started
        except EdgesyncError:
            pass
        time.sleep(0.005)


def idle_once(settle_s: float = SETTLE_S, *, everything: bool = False) -> dict[str, Any]:
    (port,) = free_ports(1)
    with open_rig() as rig:
        if everything:
            with_everything(rig)
        with_devices(rig, port)
        simulate = [sys.executable, "-m", "edgesync", "simulate", "modbus", "--port", str(port)]
        simulator = subprocess.Popen(simulate, stdout=subprocess.DEVNULL)
        time.sleep(2.0)
        log = (rig.folder / "edge.log").open("wb")
        started = time.perf_counter()
        command = [sys.executable, "-m", "edgesync", "--config", str(rig.config), "run"]
        edge = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            first_s = first_reading_s(rig, started)
            time.sleep(settle_s)
            status = ask(rig.data_dir, "status")
            return {
                "first_reading_s": first_s,
                "rss_mb": rss_bytes(edge.pid) / 1e6,
                "series": status["series"],
                "pending": sum(lane["pending"] for lane in status["lanes"]),
            }
        finally:
            for process in (edge, simulator):
                process.terminate()
                process.wait()
            log.close()


class Footprint:
    """asv: resident megabytes and seconds to the first reading of an edge with 60 points."""

    timeout = 120
    number = repeat = 1

    def track_rss(self) -> float:
        return float(idle_once(5.0)["rss_mb"])

    def track_rss_with_everything(self) -> float:
        return float(idle_once(5.0, everything=True)["rss_mb"])

    def track_first_reading(self) -> float:
        return float(idle_once(0.0)["first_reading_s"])

    track_rss.unit = "MB"  # type: ignore[attr-defined]
    track_rss_with_everything.unit = "MB"  # type: ignore[attr-defined]
    track_first_reading.unit = "s"  # type: ignore[attr-defined]


def main() -> None:
    for everything in (False, True):
        runs = [idle_once(everything=everything) for _ in range(RUNS)]
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print("with everything" if everything else "plain", json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
