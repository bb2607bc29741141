"""A whole site on one machine: real processes, real sockets, one folder.

    simulator ──Modbus TCP──▶ edge ──ZeroMQ──▶ cable ──▶ hub ──HTTP──▶ dashboard

The edge and the hub are the programs a user would run, started as processes so that they can be
killed. Only the edge's main is the demo's own (`edgesync.demo.edge`): the daemon, with a clock that
can be stepped and a witness of what it acknowledged.
"""

import contextlib
import functools
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from edgesync._native import batch
from edgesync.demo.cable import Cable, open_cable
from edgesync.demo.ledger import Places, Point, RecordRow
from edgesync.errors import EdgesyncError
from edgesync.model import Lane, RecordKind
from edgesync.serve.control import NotRunning, ask
from edgesync.sources.simulate.serve import SimulatedSite, serve_site
from edgesync.store.journal import EdgeStore

EDGE: Final = "demo"
STOP_S: Final = 20.0
READY_S: Final = 30.0
POLL_S: Final = 0.1
HTTP_S: Final = 5.0
# Fewer services have their ports above this.
PORTS_FROM: Final = 12_000
GIVEN_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")

SETTINGS: Final = """\
[edge]
name = "{edge}"

[hub]
endpoint = "tcp://{host}:{port}"
server_key = "{server_key}"

[store]
retain = "512mb"

[sync]
heartbeat = "{heartbeat}"
reconnect_base = "200ms"
reconnect_cap = "1s"
breaker_failures = 1000

[http]
port = 0
"""


class DemoError(EdgesyncError):
    """A process of the demo did not do what it should; the message names its log."""


class Site:
    """Processes and addresses of one demo; made by `open_site`."""

    def __init__(
        self, folder: Path, cable: Cable, simulated: SimulatedSite, *, http_port: int
    ) -> None:
        self.folder = folder
        self.cable = cable
        self.simulated = simulated
        self.url = f"http://127.0.0.1:{http_port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.edge_folder = folder / "edge"
        self.hub_config = folder / "hub" / "hub.toml"
        self.witness = folder / "witness.jsonl"
        self._clock = folder / "clock"
        self._clock_s = 0
        self._witnessed = self._witness_at = 0

    # -- processes -------------------------------------------------------------------------------

    async def hubd(self, *arguments: str) -> str:
        """Run one `hubd` command and return what it printed."""
        command = [sys.executable, "-m", "hubd", "--config", str(self.hub_config), *arguments]
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode:
            raise DemoError(f"hubd {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    async def start_hub(self, *, until_ready: bool = True) -> None:
        self._start("hub", "-m", "hubd", "--config", str(self.hub_config), "run")
        if until_ready:
            await self._until("hub", self._hub_answers)

    async def start_edge(self, *, until_ready: bool = True) -> None:
        config = str(self.edge_folder / "edge.toml")
        self._start("edge", "-m", "edgesync.demo.edge", config, str(self._clock), str(self.witness))
        if until_ready:
            await self._until("edge", self._edge_answers)

    async def _until(self, name: str, is_ready: Any) -> None:
        with trio.move_on_after(READY_S):
            while True:
                if self.processes[name].poll() is not None:
                    break
                if await trio.to_thread.run_sync(is_ready):
                    return
                await trio.sleep(POLL_S)
        raise DemoError(f"the {name} did not start; see {self.folder / name}.log")

    def _hub_answers(self) -> bool:
        return self.get("/healthz") is not None

    def _edge_answers(self) -> bool:
        return self.edge_status() is not None

    async def kill(self, name: str) -> None:
        """SIGKILL: no goodbye, no flush."""
        self.processes[name].kill()
        await trio.to_thread.run_sync(self.processes[name].wait)

    async def stop(self, name: str) -> int:
        """SIGTERM; returns the exit code."""
        process = self.processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return await trio.to_thread.run_sync(functools.partial(process.wait, timeout=STOP_S))
        except subprocess.TimeoutExpired:
            raise DemoError(f"the {name} did not stop in {STOP_S:.0f} s") from None

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    def step_clock(self, seconds: int) -> None:
        """Step the edge's wall clock; it takes effect when the edge next looks at it."""
        self._clock_s += seconds
        draft = self._clock.with_suffix(".new")
        draft.write_text(str(self._clock_s))
        draft.replace(self._clock)

    # -- questions -------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """Ask the hub's API; None when it does not answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=HTTP_S) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def edge_status(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = ask(self.edge_folder / "data", "status", timeout_s=HTTP_S)
        except (NotRunning, EdgesyncError):
            return None
        return found

    def count_witnessed(self) -> int:
        """Return how many readings the edge has acknowledged to its devices' reader."""
        if self.witness.exists():
            with self.witness.open() as lines:
                lines.seek(self._witness_at)
                while (line := lines.readline()).endswith("\n"):
                    self._witnessed += len(json.loads(line))
                    self._witness_at += len(line)
        return self._witnessed

    def hub_view(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.get(f"/api/v1/edges/{EDGE}")
        return found

    def places(self, ledger: str) -> Places:
        """Gather all rows; edge and hub must have stopped. `ledger` is what `hubd ledger` said."""
        log: list[RecordRow] = []
        state: dict[int, list[Point]] = {}
        for line in ledger.splitlines():
            row = json.loads(line)
            if row["place"] == "state":
                state[row["series"]] = [Point(*point) for point in row["points"]]
            else:
                log.append(RecordRow(row["lane"], row["seq"], row["event_id"], row["digest"]))
        journal, points = _journal(self.edge_folder / "data" / "store")
        return Places(
            witnessed=_witnessed(self.witness),
            journal=journal,
            journal_points=points,
            log=log,
            state_points={series: found for series, found in state.items() if found},
        )


async def _finished(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


def _witnessed(path: Path) -> dict[int, list[Point]]:
    found: dict[int, list[Point]] = {}
    for line in path.read_text().splitlines():
        for series, time_ns, value in json.loads(line):
            found.setdefault(series, []).append(Point(time_ns, value))
    return found


def _journal(path: Path) -> tuple[list[RecordRow], dict[int, list[Point]]]:
    rows: list[RecordRow] = []
    points: dict[int, list[Point]] = {}
    with EdgeStore(path) as store:
        for lane in Lane:
            for seq, record in _records(store, lane):
                rows.append(record_row(lane, seq, record))
                if record.kind == RecordKind.READINGS:
                    time_ns, _, numbers, values = batch.parse_readings(record.body)
                    for number, value in zip(numbers, values, strict=True):
                        points.setdefault(number, []).append(Point(time_ns, value))
    return rows, points


def _records(store: EdgeStore, lane: Lane) -> Iterator[tuple[int, batch.Record]]:
    seq = store.state(lane).trimmed
    while len(found := batch.records(store.read(lane, seq + 1).data)):
        for record in found:
            seq += 1
            yield seq, record


def record_row(lane: int, seq: int, record: batch.Record) -> RecordRow:
    digest = hashlib.sha256(bytes([record.kind]) + record.body).hexdigest()[:32]
    return RecordRow(int(lane), seq, f"{record.origin:016x}{record.number:016x}", digest)


def free_ports(count: int) -> list[int]:
    """Return ports nobody uses now.

    None of those that the kernel gives to outgoing connections: such a port may be in use again
    before a server listens there.
    """
    try:
        first_given = int(GIVEN_PORTS.read_text("ascii").split()[0])
    except OSError:
        first_given = 0
    ports = range(PORTS_FROM, first_given) or range(PORTS_FROM, 1 << 16)
    found: list[int] = []
    with contextlib.ExitStack() as held:  # until all are found
        while len(found) < count:
            port = secrets.choice(ports)
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a hub could listen there now; 0 is no port."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return port != 0


@contextlib.asynccontextmanager
async def open_site(
    folder: Path,
    *,
    seed: int = 0,
    every: str = "1s",
    heartbeat: str = "1s",
    http_port: int = 0,
    speed: float = 1.0,
    mqtt_port: int = 0,
) -> AsyncIterator[Site]:
    """Yield a site in `folder`, enrolled and running; everything is stopped at the end.

    every      how often the devices are polled
    http_port  of the dashboard; 0, or one that is taken, means any free one
    mqtt_port  where the edge listens for a pump, with a rule chain for it; 0 for neither
    """
    link_port, free_port = free_ports(2)
    port = http_port if is_free(http_port) else free_port
    async with trio.open_nursery() as nursery, open_cable(("127.0.0.1", link_port)) as cable:
        simulated = await nursery.start(
            functools.partial(serve_site, "127.0.0.1", 0, seed=seed, speed=speed)
        )
        site = Site(folder, cable, simulated, http_port=port)
        try:
            await _set_up(site, link_port, port, every, heartbeat, mqtt_port)
            yield site
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(site.close)
            nursery.cancel_scope.cancel()


async def _set_up(
    site: Site, link_port: int, http_port: int, every: str, heartbeat: str, mqtt_port: int
) -> None:
    listen = f"tcp://127.0.0.1:{link_port}"
    await site.hubd("init", "--listen", listen, "--port", str(http_port), "--heartbeat", heartbeat)
    await site.start_hub()
    token = json.loads(await site.hubd("enroll", EDGE, "--json"))["token"]
    config = site.edge_folder / "edge.toml"
    command = [sys.executable, "-m", "edgesync", "--config", str(config), "init", "--token", token]
    done = await _finished(command)
    if done.returncode:
        raise DemoError(f"edgesync init: {done.stderr.decode(errors='replace').strip()}")
    await trio.to_thread.run_sync(_rewrite, site, config, token, every, heartbeat, mqtt_port)
    await site.start_edge()


def _rewrite(
    site: Site, config: Path, token: str, every: str, heartbeat: str, mqtt_port: int
) -> None:
    """Point the enrolled edge at the cable instead of the hub, and give it the site's devices."""
    from edgesync_transport.keys import decode_token

    host, port = site.cable.address
    text = SETTINGS.format(
        edge=EDGE,
        host=host,
        port=port,
        server_key=decode_token(token).server_key.replace("\\", "\\\\"),
        heartbeat=heartbeat,
    )
    if mqtt_port:
        text += _mqtt(config.parent, mqtt_port)
    config.write_text(text + "".join(_device(site.simulated, every)))


def _mqtt(folder: Path, port: int) -> str:
    """Write what the pump's door and its alarm need; returns their sections."""
    from edgesync.demo.pump import DEVICES
    from edgesync.demo.tour import chain

    devices, rules = folder / "mqtt-devices.toml", folder / "rules"
    devices.write_text(DEVICES)
    devices.chmod(0o600)
    rules.mkdir(exist_ok=True)
    (rules / "root.json").write_bytes(chain())
    return f'\n[mqtt]\nport = {port}\n\n[rules]\nchains = "rules"\n'


def _device(simulated: SimulatedSite, every: str) -> Iterator[str]:
    for device in simulated.settings(every=every):
        facts: Sequence[tuple[str, object]] = (
            ("name", device.name),
            ("host", device.host),
            ("port", device.port),
            ("unit_id", device.unit_id),
            ("profile", device.profile),
        )
        yield "\n[[modbus]]\n"
        yield "".join(f"{key} = {json.dumps(value)}\n" for key, value in facts)
        yield f'poll_groups.fast.every = "{every}"\n'


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
