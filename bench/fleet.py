"""A fleet on one hub: how late are acks, what does it cost, and how does it come back?

    python -m bench.fleet --edges 1000 idle batches news
    python -m bench.fleet --edges 5000 --processes 2 idle killed vanished

The hub is a real one in a process of its own, with log, keys, projectors and HTTP; the edges are
those of `bench.edges`. Each question is asked of the fleet as the one before has left it, and its
figures are printed as a line of JSON with the machine's load:

    idle      what the hub holds and how much of a core it takes while nobody sends
    batches   each edge sends a poll every so often: from sending it to its ack
    news      a key changes: how soon do the three edges that want it know, and who else is told
    killed    the hub is killed and started again: how soon are all back, how late are the acks of
              those who are, and how old is what the API shows of a real edge among them
    vanished  half of the edges lie behind a network that swallows everything: what do they hold
    stalled   twenty edges, a process of their own, stop where they are, links and all: how late
              are the acks of the others, beside before, by turns

`vanished` makes a network namespace, as root.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
import psutil
import trio

from bench.edges import WANTED_BY, Plan
from edgesync import EdgeNode, Reading
from edgesync.demo.site import free_ports
from edgesync_transport import descriptors
from edgesync_transport.keys import KeyPair, load_or_create_keys, new_key_pair, write_keys
from hubd.data_folder import KEYS
from hubd.owned import tables
from hubd.registry import DEFAULT_TENANT, open_registry

SETTLE_S: Final = 10.0
NEWS_S: Final = 10.0
NEWS: Final = 10
PROBE: Final = "probe"
PROBE_EVERY_S: Final = 0.2
ASK_S: Final = 0.05
LOOK_S: Final = 0.05
# The kernel gives a peer up that answers nothing for 15 s, asked for the first time after 5.
VANISHED_S: Final = 40.0
# Less than after which a peer that says nothing is given up (three heartbeats).
STALLED_S, STALLS, FEW = 20.0, 3, 20
# The far end of the namespace; and a hardware address that nobody has.
NAMESPACE, NEAR, FAR = "edgesync-fleet", "10.199.0.1", "10.199.0.2"
NOBODY: Final = "02:00:00:00:00:99"


class Hub:
    """A hub in a process of its own, and the keys of its edges."""

    def __init__(
        self, folder: Path, edges: int, plan: dict[str, Any], listen: Sequence[str]
    ) -> None:
        self.folder = folder
        self.link_port, self.http_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self._config = folder / "hub.toml"
        addresses = [f"tcp://{ip}:{self.link_port}" for ip in listen]
        self._run(
            "init", "--listen", addresses[0], "--port", str(self.http_port),
            "--heartbeat", f"{plan['heartbeat_s']:.0f}s",
        )  # fmt: skip
        text = self._config.read_text()
        assert f'listen = ["{addresses[0]}"]' in text, text
        self._config.write_text(text.replace(f'["{addresses[0]}"]', json.dumps(addresses)))
        self.public = load_or_create_keys(folder / "data" / KEYS).public
        self.pairs = [new_key_pair() for _ in range(edges)]
        write_keys(folder / "edge.keys", probe := new_key_pair())
        named = {f"edge{number}": pair for number, pair in enumerate(self.pairs)}
        register(folder / "data", {**named, PROBE: probe})
        self.plans = [self._write_plan(nth, address, plan) for nth, address in enumerate(addresses)]
        self.start()

    def _write_plan(self, nth: int, address: str, plan: dict[str, Any]) -> Path:
        path = self.folder / f"plan{nth}.json"
        path.write_bytes(msgspec.json.encode(
            Plan(address=address, server_key=self.public, pairs=self.pairs, **plan)
        ))  # fmt: skip
        return path

    def start(self) -> None:
        with (self.folder / "hub.log").open("ab") as out:
            command = [sys.executable, "-m", "hubd", "--config", str(self._config), "run"]
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        self._seen = psutil.Process(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "hubd", "--config", str(self._config), *arguments]
        subprocess.run(command, check=True, capture_output=True)

    async def command(self, *words: str) -> None:
        """Carry out a command on the hub's keys, as a client of its API does."""
        body = {"commands": [list(words)]}
        async with httpx2.AsyncClient(timeout=60.0) as client:
            answer = await client.post(f"{self.url}/api/v1/keys/command", json=body)
            answer.raise_for_status()

    async def wait_ready(self) -> None:
        while True:
            try:
                await self.command("PING")
            except httpx2.TransportError:
                await trio.sleep(0.1)
            else:
                return

    async def lag(self) -> int:
        """Return how many entries of the log are not projected yet."""
        async with httpx2.AsyncClient(timeout=60.0) as client:
            stats = (await client.get(f"{self.url}/api/v1/stats")).json()
        return max(int(one["lag"]) for one in stats["projectors"])

    def cpu_s(self) -> float:
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def memory(self) -> int:
        """Return what it holds of its own, without the pages of its files that are mapped."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        ((kib,),) = (line.split()[1:2] for line in status.splitlines() if line[:7] == "RssAnon")
        return int(kib) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def register(data: Path, pairs: dict[str, KeyPair]) -> None:
    """Enrol all of them at once, which nobody else has to."""
    now_ns = time.time_ns()
    with contextlib.closing(open_registry(data)) as registry, registry.owned.change() as owned:
        for table, rows in (
            (tables.owner, [{"edge": name, "tenant": DEFAULT_TENANT} for name in pairs]),
            (tables.edge, [
                {"name": name, "tenant": DEFAULT_TENANT, "created_ns": now_ns} for name in pairs
            ]),
            (tables.key, [
                {"public": pair.public, "edge": name, "added_ns": now_ns}
                for name, pair in pairs.items()
            ]),
        ):  # fmt: skip
            owned.execute(table.insert(), rows)


class Edges:
    """Processes of `bench.edges`, and what they have seen together; the last may have but a few."""

    def __init__(self, hub: Hub, count: int, processes: int, few: int = 0) -> None:
        self.count = count
        many = count - few
        firsts = [nth * many // processes for nth in range(processes)] + [many] * bool(few)
        self._processes = []
        for nth, (first, end) in enumerate(pairwise([*firsts, count])):
            part = end - first
            plan = hub.plans[min(nth, len(hub.plans) - 1)]
            command = [sys.executable, "-m", "bench.edges", str(plan), str(first), str(part)]
            if plan != hub.plans[0]:
                command = ["ip", "netns", "exec", NAMESPACE, *command]
            self._processes.append(subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ))  # fmt: skip

    async def say(self, command: str, *, to_few: bool = True) -> dict[str, Any]:
        """Give all a command; returns what they have seen since the last one."""
        speaking = self._processes if to_few else self._processes[:-1]
        for process in speaking:
            assert process.stdin is not None
            process.stdin.write(f"{command}\n")
            process.stdin.flush()
        return merged([
            json.loads(await trio.to_thread.run_sync(one.stdout.readline))
            for one in speaking
            if one.stdout is not None
        ])  # fmt: skip

    def stall(self, *, is_stalled: bool) -> None:
        """Stop the few where they are, or let them go on."""
        self._processes[-1].send_signal(signal.SIGSTOP if is_stalled else signal.SIGCONT)

    async def wait(self, is_enough: Callable[[int], bool]) -> dict[str, Any]:
        """Return what was seen until enough are connected, or few enough."""
        seen = [await self.say("figures")]
        while not is_enough(seen[-1]["connected"]):
            await trio.sleep(LOOK_S)
            seen.append(await self.say("figures"))
        return merged(seen)

    async def wait_connected(self) -> dict[str, Any]:
        return await self.wait(lambda connected: connected == self.count)

    def close(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            process.wait()


def merged(seen: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add figures up: numbers, lists, and what is counted or listed by name."""
    total: dict[str, Any] = {}
    for figures in seen:
        for name, value in figures.items():
            if name not in total:
                total[name] = value
            elif isinstance(value, dict):
                for key, part in value.items():
                    total[name][key] = total[name][key] + part if key in total[name] else part
            else:
                total[name] = total[name] + value
    return total


class Fleet:
    """A hub with its edges connected, and the questions of this benchmark."""

    def __init__(self, hub: Hub, edges: Edges, empty_bytes: int, seconds: float) -> None:
        self.hub = hub
        self.edges = edges
        self.seconds = seconds
        self._empty_bytes = empty_bytes

    async def idle(self) -> dict[str, float]:
        await trio.sleep(SETTLE_S)
        await self.edges.say("figures")
        cpu_s = self.hub.cpu_s()
        await trio.sleep(self.seconds)
        cpu_s = self.hub.cpu_s() - cpu_s
        seen = await self.edges.say("figures")
        held = self.hub.memory()
        return {
            "core_percent": 100 * cpu_s / self.seconds,
            "pages_a_second": seen["pages"] / self.seconds,
            "kib_an_edge": (held - self._empty_bytes) / self.edges.count / 1024,
            "hub_mib": held / (1 << 20),
        }

    async def batches(self) -> dict[str, float]:
        await self.edges.say("produce")
        cpu_s, lags = self.hub.cpu_s(), list[int]()
        until = trio.current_time() + self.seconds
        while trio.current_time() < until:
            await trio.sleep(1.0)
            lags.append(await self.hub.lag())
        cpu_s = self.hub.cpu_s() - cpu_s
        seen = await self.edges.say("figures")
        count = len(seen["acks_s"])
        half = len(lags) // 2
        return {
            "batches_a_second": count / self.seconds,
            "cpu_ms_a_batch": 1e3 * cpu_s / max(1, count),
            "core_percent": 100 * cpu_s / self.seconds,
            "polls_behind": seen["behind"],
            "lag_first_half": statistics.fmean(lags[:half] or [0]),
            "lag_second_half": statistics.fmean(lags[half:] or [0]),
            "lag_max": max(lags, default=0),
        } | percentiles_ms("ack", seen["acks_s"])

    async def news(self) -> dict[str, float]:
        latencies: list[float] = []
        others = 0
        await self.edges.say("figures")
        for nth in range(NEWS):
            begun = time.monotonic()
            await self.hub.command("SET", "three/x", str(nth))
            told: dict[str, list[float]] = {}
            with trio.move_on_after(NEWS_S):
                while len(told) < WANTED_BY:
                    told = merged([told, (await self.edges.say("figures"))["news"]])
                    await trio.sleep(LOOK_S)
            latencies += [min(times) - begun for times in told.values()]
            others += len([name for name in told if name not in _wanting()])
        return {
            "reached": len(latencies) / NEWS, "others": others,
        } | percentiles_ms("news", latencies)  # fmt: skip

    async def killed(self) -> dict[str, Any]:
        async with trio.open_nursery() as nursery:
            probe = Probe(self.hub)
            await nursery.start(probe.run)
            await self.edges.say("produce")
            await trio.sleep(SETTLE_S)
            calm_s, probe.late_s = probe.late_s, []
            begun = time.monotonic()
            self.hub.kill()
            probe.lost()
            self.hub.start()
            lost = await self.edges.wait(lambda connected: connected < self.edges.count / 2)
            back = await self.edges.wait(lambda connected: connected == self.edges.count)
            back_s = time.monotonic() - begun
            await trio.sleep(SETTLE_S)
            seen = merged([lost, back, await self.edges.say("figures")])
            nursery.cancel_scope.cancel()
        return {
            "back_s": back_s, "probe_back_s": probe.back_at - begun,
            "handshakes_lost": seen["handshakes"] - seen["links"], "failures": seen["failures"],
            "shown_late_max_ms": 1e3 * max(probe.late_s),
            "shown_late_before_ms": 1e3 * max(calm_s),
        } | percentiles_ms("ack", seen["acks_s"])  # fmt: skip

    async def stalled(self) -> dict[str, Any]:
        """Return medians of turns: the machine has moods."""
        await self.edges.say("produce")
        await trio.sleep(STALLED_S)
        p99_ms: dict[bool, list[float]] = {False: [], True: []}
        for is_stalled in (False, True) * STALLS:
            self.edges.stall(is_stalled=is_stalled)
            await trio.sleep(STALLED_S / 4)
            await self.edges.say("figures", to_few=False)
            await trio.sleep(STALLED_S)
            seen = await self.edges.say("figures", to_few=False)
            p99_ms[is_stalled].append(percentiles_ms("ack", seen["acks_s"])["ack_p99_ms"])
        self.edges.stall(is_stalled=False)
        calm_ms, then_ms = (statistics.median(p99_ms[is_so]) for is_so in (False, True))
        return {
            "calm_p99_ms": calm_ms, "stalled_p99_ms": then_ms, "of_calm": then_ms / calm_ms,
            "turns_calm_ms": [round(one, 1) for one in p99_ms[False]],
            "turns_stalled_ms": [round(one, 1) for one in p99_ms[True]],
        }  # fmt: skip

    async def vanished(self) -> dict[str, float]:
        connected = self.hub.descriptors()
        begun = time.monotonic()
        swallow("lladdr", NOBODY, "nud", "permanent")
        await trio.sleep(VANISHED_S)
        gone_s, gone = time.monotonic() - begun, self.hub.descriptors()
        left = (await self.edges.say("figures"))["connected"]
        swallow()
        return {
            "descriptors": connected, "descriptors_after": gone, "after_s": gone_s,
            "edges_after": left,
        }  # fmt: skip


def _wanting() -> set[str]:
    return {f"edge{number}" for number in range(WANTED_BY)}


class Probe:
    """A real edge among the others; how old is the newest of its readings that the API shows?"""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.late_s: list[float] = []
        self.back_at = 0.0
        self._after_ns = 0

    def lost(self) -> None:
        """Count lateness again once a reading from after this is shown."""
        self._after_ns, self.back_at = time.time_ns(), 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        settings = {
            "edge": {"name": PROBE},
            "hub": {
                "endpoint": f"tcp://127.0.0.1:{self._hub.link_port}",
                "server_key": self._hub.public,
            },
        }
        async with (
            EdgeNode(settings, folder=self._hub.folder) as node,
            trio.open_nursery() as tasks,
        ):
            while not node.status().link.epoch:  # noqa: ASYNC110 - as a user would
                await trio.sleep(0.01)
            tasks.start_soon(self._keep_taking, node)
            tasks.start_soon(self._keep_asking)
            task_status.started()

    async def _keep_taking(self, node: EdgeNode) -> None:
        while True:
            await node.ingest([Reading("now", "now", 1.0, time.time_ns())])
            await trio.sleep(PROBE_EVERY_S)

    async def _keep_asking(self) -> None:
        async with httpx2.AsyncClient(base_url=self._hub.url, timeout=60.0) as client:
            while True:
                await trio.sleep(ASK_S)
                asked_ns = time.time_ns()
                with contextlib.suppress(httpx2.TransportError):
                    answer = await client.get(f"/api/v1/edges/{PROBE}/latest")
                    found = answer.json()["latest"]
                    if found and found["now"]["now"]["time_ns"] > self._after_ns:
                        self._shown(asked_ns, found["now"]["now"]["time_ns"])

    def _shown(self, asked_ns: int, taken_ns: int) -> None:
        self.back_at = self.back_at or time.monotonic()
        self.late_s.append(max(0.0, (asked_ns - taken_ns) / 1e9 - PROBE_EVERY_S))


@contextlib.contextmanager
def namespace() -> Iterator[None]:
    """Make a network namespace with a line to it; it goes with the block."""
    lines = (
        ["netns", "add", NAMESPACE],
        ["link", "add", "esf0", "type", "veth", "peer", "name", "esf1", "netns", NAMESPACE],
        ["addr", "add", f"{NEAR}/30", "dev", "esf0"],
        ["link", "set", "esf0", "up"],
        ["-n", NAMESPACE, "addr", "add", f"{FAR}/30", "dev", "esf1"],
        ["-n", NAMESPACE, "link", "set", "esf1", "up"],
    )
    try:
        for line in lines:
            subprocess.run(["ip", *line], check=True)
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


def swallow(*state: str) -> None:
    """Send what goes either way to nobody; without arguments let it through again."""
    for where, ip, device in ((["ip"], FAR, "esf0"), (["ip", "-n", NAMESPACE], NEAR, "esf1")):
        verb = "replace" if state else "del"
        subprocess.run([*where, "neigh", verb, ip, *state, "dev", device], check=True)


def percentiles_ms(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [math.nan]
    return {
        f"{name}_p50_ms": 1e3 * ordered[len(ordered) // 2],
        f"{name}_p99_ms": 1e3 * ordered[int(len(ordered) * 0.99)],
        f"{name}_max_ms": 1e3 * ordered[-1],
    }


def rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 1) if isinstance(value, float) else value
        for name, value in found.items()
    }


async def measure(
    hub: Hub, edges: int, processes: int, seconds: float, asked: Sequence[str]
) -> dict[str, Any]:
    """Connect the edges and ask one question after the other; returns all figures by question."""
    await hub.wait_ready()
    empty_bytes, cpu_s, begun = hub.memory(), hub.cpu_s(), trio.current_time()
    few = FEW if "stalled" in asked else 0
    with contextlib.closing(Edges(hub, edges, processes, few)) as running:
        fleet = Fleet(hub, running, empty_bytes, seconds)
        seen = await running.wait_connected()
        found: dict[str, Any] = {"connect": {
            "edges": edges, "seconds": trio.current_time() - begun,
            "cpu_ms_an_edge": 1e3 * (hub.cpu_s() - cpu_s) / edges,
            "hub_mib_before": empty_bytes / (1 << 20),
            "failures": seen["failures"],
        }}  # fmt: skip
        show("connect", found["connect"])
        for question in asked:
            found[question] = await getattr(fleet, question)()
            show(question, found[question])
    return found


def show(question: str, found: dict[str, Any]) -> None:
    load = [round(one, 1) for one in os.getloadavg()]
    print(json.dumps({"question": question} | rounded(found) | {"load": load}), flush=True)


def fleet(
    edges: int,
    seconds: float,
    folder: Path,
    asked: Sequence[str] = ("idle", "batches", "news"),
    *,
    processes: int = 1,
    keys: bool = True,
    poll: int = 50,
    every_s: float = 30.0,
    heartbeat_s: float = 30.0,
) -> dict[str, Any]:
    """Run it; returns what was measured."""
    descriptors.raise_limit()
    busy_s = seconds + ("stalled" in asked) * (1 + 2.5 * STALLS) * STALLED_S
    polls = 20 + 2 * round(busy_s / every_s)
    plan = {
        "keys": keys, "poll": poll, "polls": polls, "every_s": every_s, "heartbeat_s": heartbeat_s
    }  # fmt: skip
    has_far = "vanished" in asked
    with namespace() if has_far else contextlib.nullcontext():
        hub = Hub(folder, edges, plan, ["127.0.0.1", NEAR] if has_far else ["127.0.0.1"])
        try:
            return trio.run(measure, hub, edges, processes, seconds, asked)
        finally:
            hub.close()


QUESTIONS: Final = ("idle", "batches", "news", "killed", "vanished", "stalled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "questions", nargs="*", choices=[*QUESTIONS, []], default=["idle", "batches", "news"]
    )
    parser.add_argument("--edges", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--poll", type=int, default=50, help="readings")
    parser.add_argument("--every", type=float, default=30.0, help="seconds")
    parser.add_argument("--heartbeat", type=float, default=30.0, help="seconds")
    parser.add_argument("--no-keys", action="store_true")
    wanted = parser.parse_args()
    if unknown := set(wanted.questions) - set(QUESTIONS):
        parser.error(f"no question: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="edgesync-fleet-") as place:
        fleet(
            wanted.edges, wanted.seconds, Path(place), wanted.questions or QUESTIONS[:3],
            processes=wanted.processes, keys=not wanted.no_keys, poll=wanted.poll,
            every_s=wanted.every, heartbeat_s=wanted.heartbeat,
        )  # fmt: skip


if __name__ == "__main__":
    main()
