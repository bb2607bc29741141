"""What does a site of many devices cost beside the plain loop a user would write instead?

Decides whether one gateway reads 30 devices with 100 points each every second and stores them. The
loop is pymodbus' asynchronous client that multiplies each register and keeps nothing; the edge is
`edgesync run` with its durable store. Both run at the same time against the same server, so they
meet the same machine. `python -m bench.benchmarks.modbus_site [SECONDS]` prints the figures.
"""

import asyncio
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from edgesync.demo.site import free_ports
from edgesync.errors import EdgesyncError
from edgesync.serve.control import ask

DEVICES: Final = 30
# 100 points in three requests, as maps of real meters come out.
BLOCKS: Final = ((0, 34), (1000, 33), (2000, 33))
SETTLE_S: Final = 6.0


async def serve(port: int) -> None:
    """Answer every read with registers that change from request to request."""
    seen = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while True:
                head = await reader.readexactly(12)
                transaction, _, _, unit, function, _, count = struct.unpack(">HHHBBHH", head)
                seen += 1
                data = struct.pack(f">{count}H", *((seen + i) % 4000 for i in range(count)))
                pdu = bytes((function, len(data))) + data
                writer.write(struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", port)
    async with server:
        await server.serve_forever()


async def loop(port: int) -> None:
    """Read every device every second with pymodbus, decode, and keep nothing."""
    from pymodbus.client import AsyncModbusTcpClient

    async def device() -> None:
        client = AsyncModbusTcpClient("127.0.0.1", port=port)
        kind = client.DATATYPE.UINT16
        await client.connect()
        due = time.monotonic()
        while True:
            values: list[float] = []
            for address, count in BLOCKS:
                answer = await client.read_holding_registers(address, count=count)
                values += [
                    float(client.convert_from_registers([register], kind)) * 0.1  # type: ignore[arg-type]
                    for register in answer.registers
                ]
            due += 1.0
            await asyncio.sleep(max(due - time.monotonic(), 0.0))

    await asyncio.gather(*(device() for _ in range(DEVICES)))


def settings(port: int) -> str:
    """Return an edge.toml whose devices have connections of their own, as the loop's have."""
    profile = "\n".join(
        f'[[points]]\nname = "P{address + i}"\naddress = {address + i}\nscale = 0.1\ngroup = "fast"'
        for address, count in BLOCKS
        for i in range(count)
    )
    devices = "\n".join(
        f'[[modbus]]\nname = "d{n}"\nhost = "127.0.1.{n + 1}"\nport = {port}\n'
        'profile = "bench.toml"\npoll_groups.fast.every = "1s"'
        for n in range(DEVICES)
    )
    return f'profile = "bench"\n{profile}\n---[edge]\nname = "bench"\n[http]\nport = 0\n{devices}\n'


def measure(seconds: float = 20.0) -> dict[str, Any]:
    """Return shares of a core of edge and loop over the same time, and what the edge stored."""
    with tempfile.TemporaryDirectory(prefix="modbus-site-") as name:
        folder = Path(name)
        (port,) = free_ports(1)
        profile, edge = settings(port).split("---")
        (folder / "bench.toml").write_text(profile)
        (folder / "edge.toml").write_text(edge)
        here = [sys.executable, "-m", "bench.benchmarks.modbus_site"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        run = [sys.executable, "-m", "edgesync", "--config", str(folder / "edge.toml"), "run"]
        processes = [subprocess.Popen([*here, "serve", str(port)])]
        time.sleep(1.0)
        try:
            processes.append(subprocess.Popen([*here, "loop", str(port)]))
            processes.append(subprocess.Popen(run, **quiet))  # type: ignore[call-overload]
            return _watched(processes[1].pid, processes[2].pid, folder / "data", seconds)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _watched(loop_pid: int, edge_pid: int, data: Path, seconds: float) -> dict[str, Any]:
    time.sleep(SETTLE_S)
    both = [loop_pid, edge_pid]
    began = time.monotonic()
    before = [cpu_s(pid) for pid in both]
    first = _stored(data)
    time.sleep(seconds)
    took = time.monotonic() - began
    loop_s, edge_s = (cpu_s(pid) - was for pid, was in zip(both, before, strict=True))
    last = ask(data, "status", timeout_s=5.0)
    return {
        "edge_core_percent": round(100 * edge_s / took, 2),
        "loop_core_percent": round(100 * loop_s / took, 2),
        "ratio": round(edge_s / loop_s, 2),
        "readings_a_second": round((last["readings"] - first) / took),
        "overruns": sum(source["overruns"] for source in last["sources"]),
        "commits": last["store"]["commits"],
        "edge_rss_mb": round(last["rss_bytes"] / 1e6),
    }


def cpu_s(pid: int) -> float:
    """Return the seconds all threads of a process have run, to the microsecond.

    The times of /proc/PID/stat are sampled: of a process that wakes for half a millisecond they
    see too little or too much.
    """
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((one / "schedstat").read_text().split()[0]) for one in threads) / 1e9


def _stored(data: Path) -> int:
    for _ in range(50):
        try:
            return int(ask(data, "status", timeout_s=5.0)["readings"])
        except EdgesyncError:
            time.sleep(0.2)
    raise RuntimeError("the edge did not start")


class Site:
    """CPU of the edge in multiples of the loop's: 30 devices x 100 points a second."""

    timeout = 120

    def track_ratio(self) -> float:
        return float(statistics.median(measure(10.0)["ratio"] for _ in range(3)))

    track_ratio.unit = "x"  # type: ignore[attr-defined]


if __name__ == "__main__":
    if sys.argv[1:2] in (["serve"], ["loop"]):
        asyncio.run((serve if sys.argv[1] == "serve" else loop)(int(sys.argv[2])))
    else:
        print(json.dumps(measure(float((sys.argv[1:] or ["20"])[0])), indent=2))
