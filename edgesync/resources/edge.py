"""The resources of an edge, and what its store, keys and link do about them."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from edgesync.resources import disk, memory, power
from edgesync.resources.cpu import read_cpu
from edgesync.resources.levels import Sample, Thresholds
from edgesync.resources.meters import CpuMeter, NetworkMeter
from edgesync.resources.monitor import Door, Look, ResourceMonitor
from edgesync.resources.pace import FLOOR_S, next_interval_s
from edgesync.resources.policy import Action, Watch
from edgesync.resources.settings import ResourcesSection
from edgesync.status import LinkStatus
from edgesync.store.journal import EdgeStore

if TYPE_CHECKING:
    from edgesync.store.edgecells import EdgeCells

NEVER: Final = 101.0
# Of values left to the hub: so much at a time, and so often a minute.
EVICTED_A_TURN: Final = 256 << 10
LOOKS_A_TURN: Final = 256
TURNS: Final = 64
# All work waits for the disk for a fifth of the time: no moment to add more.
IO: Final = Thresholds(20.0, NEVER, NEVER)
# Percent of rounds that do not come through.
NETWORK: Final = Thresholds(20.0, 50.0, NEVER)


def monitor_of(
    store: EdgeStore,
    wanted: ResourcesSection,
    *,
    cells: Callable[[], "EdgeCells | None"],
    link: Callable[[], LinkStatus],
    sync_now: Callable[[], None],
    may_pack: bool = True,
    may_evict: bool = False,
    root: Path = Path("/"),
) -> ResourceMonitor:
    """Return the monitor of an edge; nothing runs yet.

    cells      the keys once there are any
    sync_now   lets the link try at once
    may_pack   whether values are compressed when nothing is short
    may_evict  whether values may be left to the hub
    root       of the file system whose /proc and /sys are read
    """
    cpu, network = CpuMeter(wanted.cpu_share), Network(link)
    looks: dict[str, Look] = {
        "memory": lambda: memory.sample_memory(root, int(wanted.memory_limit)),
        "disk": lambda: _disk(store, int(wanted.storage_limit)),
        "io": lambda: disk.sample_io(root),
        "cpu": lambda: _cpu(cpu, root),
        "network": network.sample,
        "battery": lambda: power.sample_power(root),
    }
    thresholds = {
        "memory": Thresholds(*wanted.memory_levels),
        "disk": Thresholds(*wanted.disk_levels),
        "io": IO,
        "cpu": Thresholds(*wanted.cpu_levels),
        "network": NETWORK,
        "battery": Thresholds(*wanted.battery_drained),
    }
    doors = Doors(store, cells, sync_now, may_pack)
    table: dict[Action, Door] = {
        Action.SYNC_NOW: doors.sync_now,
        Action.OFFLOAD: doors.offload,
        Action.COMPACT: doors.compact,
        Action.COMPRESS: doors.compress,
        Action.REFUSE_WRITES: doors.refuse_writes,
        Action.SLOW_SYNC: doors.slow_sync,
    }
    if may_evict:
        table[Action.EVICT] = doors.evict
    watch = Watch(thresholds, trio.current_time(), frozenset(table))
    monitor = ResourceMonitor(
        watch, looks, table, interval_s=wanted.interval, network_s=lambda: network.interval_s
    )
    doors.complaint = watch.complaint
    return monitor


def _disk(store: EdgeStore, configured: int) -> Sample:
    found = store.store
    room = disk.store_room(
        found.used_bytes, found.intake_bytes_max, configured, copied_bytes=found.take_widest()
    )
    return disk.sample_disk(room, disk.read_filesystem(Path(store.path)))


def _cpu(meter: CpuMeter, root: Path) -> Sample | None:
    used = os.times()
    counts = read_cpu(root, len(os.sched_getaffinity(0)))
    return meter.sample(counts, used.user + used.system, trio.current_time())


class Network:
    """Reads the link's own figures; every round trip and every session that broke counts once.

    A hub that is away for days is no bad network: when it is back it hears of everything at once.

    interval_s   how long to wait between two rounds, as the network would have it
    """

    def __init__(self, link: Callable[[], LinkStatus]) -> None:
        self.meter = NetworkMeter()
        self.interval_s = FLOOR_S
        self._link = link
        self._rtt_s: float | None = None
        self._epoch = 0

    def sample(self) -> Sample | None:
        found = self._link()
        if self._epoch and found.epoch != self._epoch:
            self.meter.lost()
            self._note_round()
        self._epoch = found.epoch
        if found.rtt_s is not None and found.rtt_s != self._rtt_s:
            self._rtt_s = found.rtt_s
            self.meter.done(found.rtt_s)
            self._note_round()
        return None if self.meter.quality is None else self.meter.quality.sample()

    def _note_round(self) -> None:
        assert self.meter.quality is not None
        self.interval_s = next_interval_s(self.interval_s, self.meter.quality)


class Doors:
    """What carries the actions out, by what there is."""

    def __init__(
        self,
        store: EdgeStore,
        cells: Callable[[], "EdgeCells | None"],
        sync_now: Callable[[], None],
        may_pack: bool,
    ) -> None:
        self._store, self._cells, self._sync_now = store, cells, sync_now
        self._may_pack = may_pack
        self.complaint: Callable[[], str] = str

    async def sync_now(self, is_on: bool) -> None:
        if is_on:
            self._sync_now()
        await trio.lowlevel.checkpoint()

    async def offload(self, is_on: bool) -> None:
        """Delete what the hub has safely; what is retained too, if the store is nearly full."""
        if is_on:
            await self._store.trim()

    async def compact(self, is_on: bool) -> None:
        if not is_on:
            return
        cells = self._cells()
        if cells is not None:
            cells.expire()
        gc.collect()
        await trio.to_thread.run_sync(self._store.store.release_pages)

    async def compress(self, is_on: bool) -> None:
        cells = self._cells()
        if cells is not None:
            cells.space.may_pack = is_on or self._may_pack
        await trio.lowlevel.checkpoint()

    async def evict(self, is_on: bool) -> None:
        """Leave some values to the hub, step by step, so that commands go on in between."""
        cells = self._cells()
        if cells is not None and is_on:
            for _ in range(TURNS):
                cells.make_room(EVICTED_A_TURN, LOOKS_A_TURN)
                await cells.wait_durable()
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    async def slow_sync(self, is_on: bool) -> None:
        """Whoever tells the hub of keys asks `ResourceMonitor.interval_s` before each pause."""
        await trio.lowlevel.checkpoint()

    async def refuse_writes(self, is_on: bool) -> None:
        cells = self._cells()
        if cells is not None and cells.call.guard is not None:
            cells.call.guard.refusal = self._refusal if is_on else None
        await trio.lowlevel.checkpoint()

    def _refusal(self) -> str:
        return f"edge resource critical: {self.complaint()}"
